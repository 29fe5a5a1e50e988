"""Programs as C text."""

from tests.export_c.networks import unet_program

from tailcut.export_c.writing.text import features, write_program


def test_the_text_says_what_is_used() -> None:
    program = unet_program()
    text = write_program(program, "small", "a comment")
    assert f"#define SMALL_ARENA_BYTES {4 * program.arena_floats}u" in text.header
    assert f"#define SMALL_PREPARED_BYTES {4 * program.prepared_floats}u" in text.header
    assert "1 x 3" not in text.header
    assert "const tailcut_model small" in text.source
    assert text.flash["coefficients"] == 4 * (12 * 33 + 16)  # of float32
    used = features(program)
    assert "#define TAILCUT_HAS_STATS 1" in used
    assert "#define TAILCUT_HAS_UP 1" in used
    assert "#define TAILCUT_HAS_GELU 0" in used
