"""A second reader of `.tailcut` files, written from SPEC.md alone: it shares no code with the library.

It needs Python and nothing else, is slow, and refuses what breaks a rule by the rule's name (see `rules.json`).
"""

from conformance.reference.decoder import Content, Kept, Other, read
from conformance.reference.meaning import dense
from conformance.reference.networks import Module, build
from conformance.reference.refusal import RefusedError

__all__ = ["Content", "Kept", "Module", "Other", "RefusedError", "build", "dense", "read"]
