"""Archives: the members come whole, and hostile or damaged ones are refused by name."""

import gzip
import io
import random
import shutil
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from hded.common.errors import HDEDError
from hded.datasets.archives import iter_members

SIZES = [0, 1, 512, 3000, 70_000]
IMAGES = {f"img-{i}.jpg": random.Random(i).randbytes(size) for i, size in enumerate(SIZES)}


def entry(name: str, **fields) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def pack(
    path: Path, *members: tuple[tarfile.TarInfo | str, bytes], format: int = tarfile.GNU_FORMAT
) -> Path:
    with tarfile.open(path, "w:gz", format=format) as tar:
        for member, data in members:
            info = entry(member) if isinstance(member, str) else member
            info.size = info.size or len(data)
            tar.addfile(info, io.BytesIO(data) if data else None)
    return path


def good(path: Path, format: int = tarfile.GNU_FORMAT) -> Path:
    folder = entry("Train400Img", type=tarfile.DIRTYPE)
    images = [(f"Train400Img/{name}", data) for name, data in IMAGES.items()]
    return pack(path, (folder, b""), *images, format=format)


def read(
    archive: Path, folder: str = "Train400Img", suffix: str | tuple[str, ...] = ".jpg", **bounds
) -> dict[str, bytes]:
    return dict(iter_members(archive, folder=folder, suffix=suffix, **bounds))


def refusal(archive: Path, **kwargs) -> str:
    """The message of a reading that must fail: one line that names the archive."""
    with pytest.raises(HDEDError) as caught:
        read(archive, **kwargs)
    message = str(caught.value)
    assert message.startswith(f"{archive}: ") and "\n" not in message and message.isprintable()
    return message


@pytest.fixture
def archive(tmp_path) -> Path:
    return tmp_path / "Train400Img.tar.gz"


# Good archives


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_file_comes_whole_and_in_order(archive, format):
    assert list(read(good(archive, format)).items()) == list(IMAGES.items())


@pytest.mark.parametrize("format", ["v7", "oldgnu", "gnu", "ustar", "posix"])
@pytest.mark.skipif(shutil.which("tar") is None, reason="the tar program writes these archives")
def test_what_the_tar_program_packs_is_read(archive, tmp_path, format):
    folder = tmp_path / "Train400Img"
    folder.mkdir()
    for name, data in IMAGES.items():
        (folder / name).write_bytes(data)
    subprocess.run(
        ["tar", f"--format={format}", "-czf", archive, "./Train400Img"], cwd=tmp_path, check=True
    )
    assert read(archive) == IMAGES


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_are_read(archive, format):
    names = ["x" * 180 + ".jpg", "größe-写真.jpg"]
    pack(archive, *((f"Train400Img/{name}", name.encode()) for name in names), format=format)
    assert read(archive) == {name: name.encode() for name in names}


def test_a_size_given_by_a_pax_header_is_used(archive):
    records = b"13 size=1000\n"
    extension = entry("x", type=tarfile.XHDTYPE, size=len(records)).tobuf()
    header = entry("Train400Img/a.jpg", size=0).tobuf()
    next_one = entry("Train400Img/b.jpg", size=1).tobuf()
    blocks = [extension, records, header, b"z" * 1000, next_one, b"b", bytes(1024)]
    archive.write_bytes(gzip.compress(b"".join(b + bytes(-len(b) % 512) for b in blocks)))
    assert read(archive) == {"a.jpg": b"z" * 1000, "b.jpg": b"b"}


def test_a_size_of_a_folder_counts_nothing(archive):
    folder = entry("Train400Img", type=tarfile.DIRTYPE, size=4096)
    assert read(pack(archive, (folder, b""), ("Train400Img/a.jpg", b"1"))) == {"a.jpg": b"1"}


def test_only_files_of_the_folder_and_the_suffix_come(archive):
    pack(
        archive,
        ("README.jpg", b"0"),
        ("Train400Img/a.JPG", b"1"),
        ("./Train400Img/b.jpeg", b"2"),
        ("Train400Img/notes.txt", b"3"),
        ("Train400Img/._a.JPG", b"4"),
        ("Train400Img/deeper/c.jpg", b"5"),
        ("Train400Img2/d.jpg", b"6"),
    )
    assert read(archive, suffix=(".jpg", ".JPEG")) == {"a.JPG": b"1", "b.jpeg": b"2"}
    assert read(archive, folder=".") == {"README.jpg": b"0"}
    assert read(archive, folder="Train400Img/deeper/") == {"c.jpg": b"5"}


def test_a_reader_may_stop_early(archive):
    members = iter_members(good(archive), folder="Train400Img", suffix=".jpg")
    assert next(members) == ("img-0.jpg", b"")


# Hostile members


@pytest.mark.parametrize(
    "name",
    [
        "../evil.jpg", "Train400Img/../../evil.jpg", "Train400Img/..", "/etc/evil.jpg",
        "//evil.jpg", "C:/evil.jpg", "c:evil.jpg", "..\\evil.jpg", "\\evil.jpg",
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE])
@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_that_lead_out_are_refused_by_name(archive, name, kind, format):
    pack(archive, ("Train400Img/a.jpg", b"1"), (entry(name, type=kind), b""), format=format)
    message = refusal(archive)
    assert name in message or ascii(name) in message
    assert "climbs out" in message or "absolute" in message


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "character device"),
        (tarfile.BLKTYPE, "block device"),
        (tarfile.FIFOTYPE, "named pipe"),
        (tarfile.GNUTYPE_SPARSE, "sparse file"),
        (b"Z", "unknown kind"),
    ],
)
@pytest.mark.parametrize("name", ["Train400Img/b.jpg", "elsewhere/b.txt"])
def test_what_is_neither_file_nor_folder_is_refused_by_name(archive, kind, words, name):
    link = entry(name, type=kind, linkname="/etc/passwd")
    message = refusal(pack(archive, ("Train400Img/a.jpg", b"1"), (link, b"")))
    assert name in message and words in message


def test_a_sparse_file_of_a_pax_header_is_refused(archive):
    headers = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "Train400Img/big.jpg",
    }  # fmt: skip
    sparse = entry("Train400Img/a.jpg", pax_headers=headers)
    data = b"1\n0\n1\n".ljust(512, b"\0") + b"1"  # one piece, at 0, of one byte
    assert "sparse" in refusal(pack(archive, (sparse, data), format=tarfile.PAX_FORMAT))


@pytest.mark.parametrize("twin", ["Train400Img/a.jpg", "./Train400Img//a.jpg"])
def test_a_name_that_is_there_twice_is_refused(archive, twin):
    pack(archive, ("Train400Img/a.jpg", b"1"), ("Train400Img/b.jpg", b"2"), (twin, b"3"))
    assert "Train400Img/a.jpg is there twice" in refusal(archive)


@pytest.mark.parametrize("name", ["Train400Img/a\n.jpg", "Train400Img/\x1b[2J.jpg", "\udce4.jpg"])
def test_names_that_would_garble_a_log_are_refused(archive, name):
    assert ascii(name)[1:-1] in refusal(pack(archive, (name, b"1")))


@pytest.mark.parametrize("name", ["", "."])
def test_a_file_without_a_name_is_refused(archive, name):
    refusal(pack(archive, (entry(name), b"1")), folder=".", suffix="")


def test_an_archive_without_the_files_is_refused(archive):
    assert "no file *.mat in its folder Gridlaserdata/" in refusal(
        good(archive), folder="Gridlaserdata", suffix=".mat"
    )


def test_nothing_is_written_anywhere(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    pack(home / "a.tgz", ("Train400Img/a.jpg", b"1"), ("../evil.jpg", b"2"))
    refusal(home / "a.tgz")
    assert sorted(tmp_path.rglob("*")) == [home, home / "a.tgz"]


# Bombs


def test_a_large_member_is_refused_before_it_is_unpacked(archive):
    pack(archive, ("Train400Img/bomb.jpg", bytes(32 << 20)))
    tracemalloc.start()
    try:
        message = refusal(archive, max_member_bytes=1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert "Train400Img/bomb.jpg claims 33554432 bytes" in message


def test_a_file_of_just_the_limit_is_read(archive):
    pack(archive, ("Train400Img/a.jpg", bytes(1000)))
    assert len(read(archive, max_member_bytes=1000)["a.jpg"]) == 1000
    assert "claims 1000 bytes" in refusal(archive, max_member_bytes=999)


def test_members_are_counted_also_those_that_are_passed_over(archive):
    pack(archive, *((f"elsewhere/{i}", b"") for i in range(20)), ("Train400Img/a.jpg", b"1"))
    assert read(archive, max_members=21) == {"a.jpg": b"1"}
    assert "more than 20 members" in refusal(archive, max_members=20)


def test_the_whole_unpacked_archive_is_bounded(archive):
    pack(archive, ("Train400Img/a.jpg", b"1"), ("elsewhere/bomb", bytes(3 << 20)))
    assert read(archive, max_total_bytes=4 << 20) == {"a.jpg": b"1"}
    message = refusal(archive, max_total_bytes=2 << 20)
    assert "elsewhere/bomb" in message and "claims 3145728 bytes" in message


def test_what_follows_the_end_mark_is_bounded_too(archive):
    archive.write_bytes(gzip.compress(gzip.decompress(good(archive).read_bytes()) + bytes(8 << 20)))
    assert read(archive) == IMAGES
    assert "unpacks to more than" in refusal(archive, max_total_bytes=2 << 20)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_an_extension_header_cannot_claim_the_memory(archive, kind):
    header = entry("x", type=kind, size=1 << 32).tobuf(tarfile.GNU_FORMAT)
    archive.write_bytes(gzip.compress(header + bytes(32 << 20)))
    tracemalloc.start()
    try:
        assert "claims 4294967296 bytes" in refusal(archive)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_an_endless_row_of_extension_headers_is_refused(archive):
    header = entry("x", type=tarfile.GNUTYPE_LONGNAME, size=1).tobuf() + b"y".ljust(512, b"\0")
    archive.write_bytes(gzip.compress(header * 5000))
    assert "download it again" in refusal(archive)


@pytest.mark.parametrize(
    "records", [b"nonsense", b"999 path=a\n", b"3 p=\n", b"0 path=a\n", b"12 path=abcde"]
)
def test_a_pax_header_that_cannot_be_read_is_refused(archive, records):
    header = entry("x", type=tarfile.XHDTYPE, size=len(records)).tobuf()
    archive.write_bytes(gzip.compress(header + records.ljust(512, b"\0")))
    assert "download it again" in refusal(archive)


def test_a_global_header_may_comment_but_not_name_members(archive):
    for records, fine in ((b"13 comment=a\n", True), (b"10 path=a\n", False)):
        header = entry("x", type=tarfile.XGLTYPE, size=len(records)).tobuf()
        tar = gzip.decompress(good(archive).read_bytes())
        archive.write_bytes(gzip.compress(header + records.ljust(512, b"\0") + tar))
        if fine:
            assert read(archive) == IMAGES
        else:
            assert "there twice" in refusal(archive)


def test_negative_and_absurd_sizes_are_refused(archive):
    tar = bytearray(gzip.decompress(pack(archive, ("Train400Img/a.jpg", b"1")).read_bytes()))
    for size in (-512, 1 << 60):
        tar[124:136] = (size & (1 << 96) - 1 | 0x80 << 88).to_bytes(12)  # base 256, as GNU tar
        tar[148:156] = b" " * 8
        tar[148:156] = b"%06o\0 " % sum(tar[:512])
        archive.write_bytes(gzip.compress(tar))
        assert f"claims {size} bytes" in refusal(archive)


# Damage


def test_an_archive_cut_anywhere_is_never_taken_for_whole(archive):
    whole = good(archive).read_bytes()
    for end in [*range(40), *range(40, len(whole), 997), *range(len(whole) - 40, len(whole))]:
        archive.write_bytes(whole[:end])
        assert "download it again" in refusal(archive)


def test_a_tar_cut_before_it_was_compressed_is_never_taken_for_whole(archive):
    tar = gzip.decompress(good(archive).read_bytes())
    end_mark = len(tar.rstrip(b"\0")) + 511 & -512  # the data ends here, padded to a block
    for end in [*range(0, end_mark + 1, 512), 700, end_mark - 100, end_mark + 511]:
        archive.write_bytes(gzip.compress(tar[:end]))
        assert "damaged or cut short" in refusal(archive)


def test_no_flipped_byte_of_the_archive_changes_what_is_read(archive):
    whole = good(archive).read_bytes()
    dice = random.Random(1)
    for place in [*range(60), *dice.sample(range(len(whole)), 200)]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << dice.randrange(8)
        archive.write_bytes(flipped)
        try:
            assert read(archive) == IMAGES  # it was a time stamp, or the name in the gzip header
        except HDEDError:
            pass


def test_no_flipped_byte_of_the_headers_raises_anything_else(archive):
    tar = gzip.decompress(good(archive, tarfile.PAX_FORMAT).read_bytes())
    dice = random.Random(2)
    for _ in range(600):
        flipped = bytearray(tar[:3072])
        for _ in range(dice.randrange(1, 4)):
            flipped[dice.randrange(512)] = dice.randrange(256)
        if dice.random() < 0.8:  # most with a right checksum, so that the fields are used
            flipped[148:156] = b" " * 8
            flipped[148:156] = b"%06o\0 " % sum(flipped[:512])
        archive.write_bytes(gzip.compress(bytes(flipped) + tar[3072:], 1))
        try:
            read(archive, folder=".", suffix="", max_total_bytes=1 << 20)
        except HDEDError as error:
            assert str(error).isprintable()


@pytest.mark.parametrize(
    "content", [b"", b"<html>404", b"PK\x03\x04", gzip.compress(b"no tar", mtime=0)]
)
def test_what_is_no_tar_gz_is_refused(archive, content):
    archive.write_bytes(content)
    assert "download it again" in refusal(archive)


def test_garbage_after_the_archive_is_refused(archive):
    archive.write_bytes(good(archive).read_bytes() + b"garbage")
    assert "damaged or cut short" in refusal(archive)


def test_a_missing_archive_and_a_folder_are_clear_errors(tmp_path):
    assert "No such file" in refusal(tmp_path / "none.tar.gz")
    assert "cannot be read" in refusal(tmp_path)
