"""Evaluation of networks on data sets: classification, segmentation, detection, generation.

Needs no extra for one process. Imported by tasks and training, never the other way round.
"""

from tailcut.evaluation.detection import evaluate_detector as evaluate_detector
from tailcut.evaluation.evaluate import EvaluateReport as EvaluateReport
from tailcut.evaluation.evaluate import evaluate as evaluate
from tailcut.evaluation.files import evaluate_file as evaluate_file
from tailcut.evaluation.generation import evaluate_generator as evaluate_generator
