"""Files over thin links and on paper."""

from pathlib import Path

import pytest
from PIL import Image

from tailcut.errors import ArgumentError, ChecksumError, MissingExtraError, TruncatedFileError
from tailcut.format.file_bytes import read_file
from tailcut.format.packets import join
from tailcut.tasks.packets import CORRECTIONS, join_files, split_file, write_qr_codes

NAME = "zoo:unet-759-float16"


def test_a_file_over_a_thin_link(tmp_path: Path) -> None:
    report = split_file(NAME, tmp_path / "packets", packet_bytes=200)
    assert len(report.files) == 8
    assert report.packet_bytes <= 200
    assert str(report).endswith("1,451 bytes for a file of 1,363")
    files = [tmp_path / "packets" / name for name in report.files]
    joined = join_files([*reversed(files)], tmp_path / "again.tailcut")
    assert (tmp_path / "again.tailcut").read_bytes() == read_file(NAME)
    assert joined.num_packets == 8
    files[3].unlink()
    with pytest.raises(TruncatedFileError, match="1 of 8 packets are missing: 3 "):
        join_files([tmp_path / "packets"], tmp_path / "not.tailcut")
    assert not (tmp_path / "not.tailcut").exists()


def test_packets_of_an_earlier_split_do_not_stay_among_the_new_ones(tmp_path: Path) -> None:
    others = {"unet-759-float16-12.packet", "unet-759-float16-0123.txt", "lenet5-776-000.packet", "unet-759-000.packet"}
    assert len(split_file(NAME, tmp_path, packet_bytes=100).files) == 16
    for name in others:
        (tmp_path / name).write_text("mine")
    report = split_file(NAME, tmp_path, packet_bytes=200)
    assert {path.name for path in tmp_path.iterdir()} == {*report.files, *others}
    join_files([tmp_path / name for name in report.files], tmp_path / "again.tailcut")


def test_only_sound_files_are_split(tmp_path: Path) -> None:
    content = bytearray(read_file(NAME))
    content[100] ^= 1
    (tmp_path / "damaged.tailcut").write_bytes(content)
    with pytest.raises(ChecksumError):
        split_file(tmp_path / "damaged.tailcut", tmp_path / "packets", packet_bytes=200)
    assert not (tmp_path / "packets").exists()


@pytest.mark.parametrize(("name", "level", "number"), [("lenet5-776", "medium", 1), ("unet-2936-float16", "low", 2)])
def test_qr_codes_are_read_back(name: str, level: str, number: int, tmp_path: Path) -> None:
    pytest.importorskip("segno", reason="needs the extra qr")
    reader = pytest.importorskip("zxingcpp", reason="needs zxing-cpp, which reads QR codes")
    report = write_qr_codes(f"zoo:{name}", tmp_path / "codes.png", error_correction=level)
    assert report.num_codes == number
    with Image.open(tmp_path / "codes.png") as image:
        assert image.size == report.size
        read = reader.read_barcodes(image.convert("L"), formats=reader.BarcodeFormat.QRCode)
    parts = [(f"code {place}", bytes(code.bytes)) for place, code in enumerate(read)]
    assert len(parts) == number
    content = parts[0][1] if number == 1 else join(parts)
    assert content == read_file(f"zoo:{name}")


def test_folders_that_cannot_be_made_or_have_no_packets(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "inner"):
        with pytest.raises(ArgumentError, match=r"cannot make the folder .*file.*: there is a file of that name"):
            split_file("zoo:lenet5-776", folder, packet_bytes=200)
    with pytest.raises(FileNotFoundError, match=r"no such file or folder: .*nowhere"):
        join_files([tmp_path / "nowhere"], tmp_path / "out.tailcut")
    with pytest.raises(ArgumentError, match=r"no packets to join: the folder .* has no \*\.packet"):
        join_files([tmp_path], tmp_path / "out.tailcut")
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match=r"\.png"):
        write_qr_codes(NAME, tmp_path / "code.svg")
    with pytest.raises(ArgumentError, match="error_correction must be one of low, medium, got 'high'"):
        write_qr_codes(NAME, tmp_path / "code.png", error_correction="high")
    monkeypatch.setitem(__import__("sys").modules, "segno", None)
    with pytest.raises(MissingExtraError, match="qr"):
        write_qr_codes(NAME, tmp_path / "code.png")
    monkeypatch.undo()
    pytest.importorskip("segno", reason="needs the extra qr")
    with pytest.raises(ArgumentError, match="4 QR codes hold about 9,280"):
        write_qr_codes("zoo:lenet5-7668", tmp_path / "code.png")


def test_no_packet_is_written_over(tmp_path: Path) -> None:
    split_file("zoo:lenet5-776", tmp_path, packet_bytes=200)
    first = tmp_path / "lenet5-776-000.packet"
    before = first.read_bytes()
    with pytest.raises(ArgumentError, match=r"000\.packet is one of the packets, and would be written over"):
        join_files([tmp_path], first)
    assert first.read_bytes() == before
    with pytest.raises(ArgumentError, match="nowhere"):
        join_files([tmp_path], tmp_path / "nowhere" / "a.tailcut")


def test_names_of_a_thousand_packets_are_in_order(tmp_path: Path) -> None:
    names = split_file("zoo:unet-759-float16", tmp_path, packet_bytes=14).files
    assert names[0] == "unet-759-float16-0000.packet"
    assert len(names) > 1000
    assert sorted(names) == list(names)


def test_several_codes_are_no_larger_than_they_need_to_be(tmp_path: Path) -> None:
    pytest.importorskip("segno", reason="needs the extra qr")
    name, room = "zoo:unet-2936-float16", CORRECTIONS["low"][1]
    assert room < len(read_file(name)) < 1.9 * room  # one of the largest codes, and a part of another
    report = write_qr_codes(name, tmp_path / "codes.png", error_correction="low")
    assert (report.num_codes, report.version < 40) == (2, True)
