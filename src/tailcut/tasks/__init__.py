"""Tasks on files, one module each; the verbs of the command line call them."""

from tailcut.tasks.predict import PredictReport as PredictReport
from tailcut.tasks.predict import predict as predict
from tailcut.tasks.sample import sample as sample
