"""A network = a base (registered name + arguments, or the user's class) + an ordered list of edits."""

from tailcut.structure.class_names import METADATA_KEY as METADATA_KEY
from tailcut.structure.class_names import are_names as are_names
from tailcut.structure.class_names import class_names as class_names
from tailcut.structure.class_names import name_of as name_of
from tailcut.structure.class_names import set_class_names as set_class_names
from tailcut.structure.record import Base as Base
from tailcut.structure.record import Coefficients as Coefficients
from tailcut.structure.record import Edit as Edit
from tailcut.structure.record import NetworkView as NetworkView
from tailcut.structure.record import Record as Record
from tailcut.structure.record import StoredTensor as StoredTensor
from tailcut.structure.record import add_edit as add_edit
from tailcut.structure.record import base_of as base_of
from tailcut.structure.record import edit_kind as edit_kind
from tailcut.structure.record import record_of as record_of
from tailcut.structure.record import register_edit as register_edit
from tailcut.structure.record import set_record as set_record
from tailcut.structure.record import source_of as source_of
from tailcut.structure.registry import ModelFamily as ModelFamily
from tailcut.structure.registry import create_model as create_model
from tailcut.structure.registry import example_shape as example_shape
from tailcut.structure.registry import family as family
from tailcut.structure.registry import model_names as model_names
from tailcut.structure.registry import register_model as register_model
from tailcut.structure.wire import Reader as Reader
from tailcut.structure.wire import Writer as Writer
