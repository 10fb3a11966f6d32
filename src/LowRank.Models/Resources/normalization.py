"""Writes normalization.bin: what Unicode normalisation needs, from Python's unicodedata. Deflated little-endian u32: the number of decompositions, then
for each its code point, 1 where it is canonical, length, and code points; the number of combining classes, then code point and class; the number of
code points that composition leaves out."""
import pathlib
import struct
import sys
import unicodedata
import zlib

decompositions, classes, excluded = [], [], []
for cp in range(sys.maxunicode + 1):
    char = chr(cp)
    if 0xAC00 <= cp < 0xD7A4 or 0xD800 <= cp < 0xE000:
        continue  # Hangul by arithmetic; surrogates are no characters
    parts = unicodedata.decomposition(char).split()
    if parts:
        canonical = not parts[0].startswith("<")
        target = [int(p, 16) for p in (parts if canonical else parts[1:])]
        decompositions.append((cp, int(canonical), len(target), *target))
        if canonical and unicodedata.normalize("NFC", char) != char:
            excluded.append(cp)
    if unicodedata.combining(char):
        classes.append((cp, unicodedata.combining(char)))
words = [len(decompositions), *(w for d in decompositions for w in d), len(classes), *(w for c in classes for w in c), len(excluded), *excluded]
deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
data = deflate.compress(struct.pack(f"<{len(words)}I", *words)) + deflate.flush()
(pathlib.Path(__file__).parent / "normalization.bin").write_bytes(data)
