"""Tasks on files, one module each; the commands call them."""

from tailcut.tasks.prediction.outputs import PredictReport as PredictReport
from tailcut.tasks.prediction.predict import predict as predict
from tailcut.tasks.prediction.sample import sample as sample
