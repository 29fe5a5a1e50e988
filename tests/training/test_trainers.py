import pytest

from tailcut.training.detection import DetectionSession
from tailcut.training.gan import GanSession
from tailcut.training.loop import Session
from tailcut.training.recipe_files import load_recipe
from tailcut.training.trainers import session_of


@pytest.mark.parametrize(
    ("name", "overrides", "kind"),
    [
        ("lenet5-776", [], Session),
        ("vae-ref", [], Session),
        ("gan-ref", [], GanSession),
        ("faster-rcnn-rgb", ["detection.backbone=runs/backbone"], DetectionSession),
    ],
)
def test_each_recipe_has_its_session(name: str, overrides: list[str], kind: type[Session]) -> None:
    assert session_of(load_recipe(name, overrides)) is kind
