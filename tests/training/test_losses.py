import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax, sigmoid

from tailcut.errors import ArgumentError
from tailcut.training.losses import adversarial_loss, distillation_loss, label_loss, soft_dice_loss, total_loss
from tailcut.training.recipe.schema import DistillationSection, TrainingSection

CLASSES = TrainingSection(epochs=1, label_smoothing=0.1)
MASKS = TrainingSection(epochs=1, loss="dice_bce")
TEACHER = DistillationSection(teacher="zoo:x", temperature=3.0, weight=0.25)


def test_classes_have_the_cross_entropy() -> None:
    outputs, targets = torch.randn(4, 10), torch.tensor([1, 2, 3, 4])
    expected = cross_entropy(outputs, targets, label_smoothing=0.1)
    assert torch.equal(label_loss(outputs, targets, CLASSES), expected)


def test_a_right_and_sure_mask_has_almost_no_loss_and_a_wrong_one_much() -> None:
    masks = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 0, 0]]])
    right = torch.stack([-20.0 * masks, 20.0 * masks], dim=1) + torch.tensor([10.0, -10.0]).reshape(1, 2, 1, 1)
    assert label_loss(right, masks, MASKS) < 1e-3
    assert label_loss(-right, masks, MASKS) > 5


def test_soft_dice_by_hand() -> None:
    outputs = torch.zeros(1, 2, 1, 4)  # each pixel is foreground with probability one half
    masks = torch.tensor([[[1, 1, 1, 0]]])
    assert soft_dice_loss(outputs, masks).item() == pytest.approx(1 - (2 * 1.5 + 1) / (2 + 3 + 1))


def test_one_output_per_pixel_is_the_difference_of_two() -> None:
    outputs = torch.randn(2, 1, 3, 4)
    masks = torch.randint(0, 2, (2, 3, 4))
    two = torch.cat([torch.zeros_like(outputs), outputs], dim=1)
    for section in (MASKS, TrainingSection(epochs=1, loss="dice_bce", label_smoothing=0.2)):
        torch.testing.assert_close(label_loss(outputs, masks, section), label_loss(two, masks, section))
    assert soft_dice_loss(outputs, masks) == pytest.approx(soft_dice_loss(two, masks).item(), abs=1e-6)
    assert sigmoid(outputs).shape == outputs.shape


def test_a_student_like_its_teacher_loses_nothing() -> None:
    outputs = torch.randn(4, 10)
    assert distillation_loss(outputs, outputs + 3.0, TEACHER).item() == pytest.approx(0, abs=1e-5)


def test_distillation_is_the_divergence_of_softened_probabilities() -> None:
    student, teacher = torch.randn(4, 10, dtype=torch.float64), torch.randn(4, 10, dtype=torch.float64)
    p, q = log_softmax(teacher / 3, dim=1).exp(), log_softmax(student / 3, dim=1).exp()
    expected = 9 * (p * (p / q).log()).sum(dim=1).mean()
    assert distillation_loss(student, teacher, TEACHER).item() == pytest.approx(expected.item(), rel=1e-5)


def test_one_output_per_pixel_is_taught_like_two() -> None:
    outputs, taught = torch.randn(2, 2, 1, 3, 4)
    two, taught_two = (torch.cat([torch.zeros_like(one), one], dim=1) for one in (outputs, taught))
    found = distillation_loss(outputs, taught, TEACHER)
    assert found > 0.01
    torch.testing.assert_close(found, distillation_loss(two, taught_two, TEACHER))


def test_the_weight_mixes_both_losses() -> None:
    outputs, teacher, targets = torch.randn(4, 10), torch.randn(4, 10), torch.tensor([1, 2, 3, 4])
    labels, taught = label_loss(outputs, targets, CLASSES), distillation_loss(outputs, teacher, TEACHER)
    got = total_loss(outputs, targets, CLASSES, TEACHER, teacher)
    torch.testing.assert_close(got, 0.75 * labels + 0.25 * taught)
    assert torch.equal(total_loss(outputs, targets, CLASSES), labels)


@pytest.mark.parametrize("real", [True, False])
def test_a_discriminator_loses_the_logarithm_of_its_probability(real: bool) -> None:
    logits = torch.randn(6, 1)
    probability = sigmoid(logits) if real else 1 - sigmoid(logits)
    torch.testing.assert_close(adversarial_loss(logits, real=real), -probability.log().mean())


def test_a_teacher_with_other_outputs_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"teacher: must give outputs of shape \(4, 10\).*got \(4, 1\)"):
        distillation_loss(torch.zeros(4, 10), torch.zeros(4, 1), TEACHER)
