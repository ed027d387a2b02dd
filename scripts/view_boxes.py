#!/usr/bin/env python3
"""Which part of an image a view `crop-N` shows: a second implementation of `extractor/src/view.rs`.

    python3 scripts/view_boxes.py ID N WIDTH HEIGHT    # ID: SHA-256 of the image's file, in hexadecimal

Why it exists: the golden boxes of the Rust tests come from here (`--golden` prints them), and a program that reads
a store can find out what its crops show. Python alone is needed.
Exit code 0: printed; 2: bad arguments.
"""

import hashlib
import sys
from math import isqrt


def words(key, nonce):
    """ChaCha8's output for a 32-byte key and a 64-bit nonce, as 32-bit words from block 0 on."""
    counter = 0
    while True:
        start = [int.from_bytes(part, "little") for part in
                 [b"expand 32-byte k"[i:i + 4] for i in range(0, 16, 4)] + [key[i:i + 4] for i in range(0, 32, 4)]]
        start += [counter & 0xFFFFFFFF, counter >> 32, nonce & 0xFFFFFFFF, nonce >> 32]
        state = list(start)

        def quarter(a, b, c, d):
            for first, second, third, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                state[first] = (state[first] + state[second]) & 0xFFFFFFFF
                mixed = state[third] ^ state[first]
                state[third] = (mixed << turn | mixed >> (32 - turn)) & 0xFFFFFFFF

        for _ in range(4):  # 8 rounds: a column and a diagonal one each
            for i in range(4):
                quarter(i, 4 + i, 8 + i, 12 + i)
            for i in range(4):
                quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
        yield from ((a + b) & 0xFFFFFFFF for a, b in zip(state, start))
        counter += 1


def box(image_id, n, width, height):
    """(x, y, width, height, mirrored) of the view crop-`n` of an image."""
    stream = words(image_id, n)

    def below(bound):
        while True:
            product = next(stream) * bound
            if product % 2**32 >= 2**32 % bound:
                return product >> 32

    area = 13108 + below(52429)
    least = max(49152, area)
    stretch = least + below(65537 - least)
    narrow = below(2) == 0

    def shorter(side):
        return max(1, isqrt(side**2 * area * stretch // 2**32))

    def longer(side):
        return max(1, isqrt(side**2 * area // stretch))

    w, h = (shorter(width), longer(height)) if narrow else (longer(width), shorter(height))
    x, y = below(width - w + 1), below(height - h + 1)
    return x, y, w, h, below(2) == 1


def golden():
    for text, n, width, height in [
        ("a", 1, 500, 375), ("a", 2, 500, 375), ("a", 1000, 500, 375), ("b", 1, 500, 375), ("b", 1, 375, 500),
        ("b", 7, 1, 1), ("c", 3, 100000000, 1), ("c", 4, 2, 3), ("d", 5, 10000, 10000), ("e", 6, 100, 100),
    ]:
        numbers = box(hashlib.sha256(text.encode()).digest(), n, width, height)
        numbers = ", ".join(str(number).lower() for number in numbers)
        print(f'    ("{text}", {n}, {width}, {height}, ({numbers})),')


def main():
    arguments = sys.argv[1:]
    if arguments == ["--golden"]:
        return golden()
    try:
        image_id = bytes.fromhex(arguments[0])
        n, width, height = map(int, arguments[1:])
        if len(image_id) != 32 or not 1 <= n <= 1000 or min(width, height) < 1:
            raise ValueError
    except (ValueError, IndexError):
        sys.exit(print(__doc__, file=sys.stderr) or 2)
    x, y, w, h, mirrored = box(image_id, n, width, height)
    print(f"x {x} y {y} width {w} height {h} mirrored {str(mirrored).lower()}")


if __name__ == "__main__":
    main()
