"""Faster and Mask R-CNN on frequency channels."""

from tailcut.inputs.detection.detectors import Detector as Detector
from tailcut.inputs.detection.detectors import FasterRCNN as FasterRCNN
from tailcut.inputs.detection.detectors import MaskRCNN as MaskRCNN
from tailcut.inputs.detection.detectors import faster_rcnn as faster_rcnn
from tailcut.inputs.detection.detectors import mask_rcnn as mask_rcnn
