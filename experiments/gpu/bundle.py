"""A part of CIFAR-100 and a teacher's weights as a folder small enough to travel to a lent machine, and back.

    python experiments/gpu/bundle.py pack --data cifar100.zip --teacher resnet56.safetensors [--out .bundle]
    python experiments/gpu/bundle.py unpack --bundle .bundle --out cifar

Images go as lossless WebP mosaics of 1,000 (1.7 kB an image); ``unpack`` writes them in the layout of the official
archive, which ``--task cifar100 --data`` reads. Both parts are the first images of a stratified order.
"""

import argparse
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

TRAIN, TEST = 22_000, 4_000
LARGEST = 50 << 20
SIDE, COLUMNS, ROWS = 32, 40, 25
MOSAIC = COLUMNS * ROWS


def mosaic(images):
    """Up to 1,000 images N×3×32×32 as one of 800×1280×3, black where there are none."""
    full = np.zeros((MOSAIC, 3, SIDE, SIDE), np.uint8)
    full[: len(images)] = images
    return full.reshape(ROWS, COLUMNS, 3, SIDE, SIDE).transpose(0, 3, 1, 4, 2).reshape(ROWS * SIDE, COLUMNS * SIDE, 3)


def tiles(picture):
    """The 1,000 images of a mosaic, N×3×32×32."""
    parts = picture.reshape(ROWS, SIDE, COLUMNS, SIDE, 3).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(parts.reshape(MOSAIC, 3, SIDE, SIDE))


def pack(data, teacher, out, counts):
    """Write the folder anew and read it back. Fails where it is too large or an image came back changed."""
    from kdzero_gp.data.sources import cifar100

    dataset = cifar100(data)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    facts = {"classes": dataset.classes, "labels": {}}
    for name, count in counts.items():
        split = getattr(dataset, name)
        images, facts["labels"][name] = split.images[:count].numpy(), split.labels[:count].tolist()
        for start in range(0, len(images), MOSAIC):
            picture = Image.fromarray(mosaic(images[start : start + MOSAIC]))
            picture.save(out / f"{name}-{start // MOSAIC:03d}.webp", lossless=True, quality=100, method=4)
        assert np.array_equal(read(out, name, len(images)), images), f"the {name} images came back changed"
    shutil.copyfile(teacher, out / "teacher.safetensors")
    (out / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    size = sum(path.stat().st_size for path in out.iterdir())
    assert size <= LARGEST, f"{size / 2**20:.1f} MiB is too much; take fewer images"
    print(f"{out}: {counts}, {size / 2**20:.1f} MiB")


def read(bundle, name, count):
    """The first ``count`` images of a part."""
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(bundle.glob(f"{name}-*.webp"))]
    return np.concatenate([tiles(picture) for picture in pictures])[:count]


def unpack(bundle, out, counts):
    """The bundle, or the first images of its parts, in the layout of the official archive for Python."""
    facts = json.loads((bundle / "facts.json").read_text(encoding="utf-8"))
    out.mkdir(parents=True, exist_ok=True)
    for name, labels in facts["labels"].items():
        labels = labels[: counts[name]]
        images = read(bundle, name, len(labels))
        names = [f"{index:06d}.png".encode() for index in range(len(labels))]
        part = {b"data": images.reshape(len(images), -1), b"fine_labels": labels, b"filenames": names}
        (out / name).write_bytes(pickle.dumps(part))
    (out / "meta").write_bytes(pickle.dumps({b"fine_label_names": [name.encode() for name in facts["classes"]]}))
    print(f"{out}: {counts}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("pack", "unpack"))
    parser.add_argument("--data", type=Path, help="CIFAR-100 as --task cifar100 reads it")
    parser.add_argument("--teacher", type=Path, help="the weights of a ResNet-56 for CIFAR-100")
    parser.add_argument("--bundle", type=Path, default=Path(".bundle"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--train", type=int, default=TRAIN)
    parser.add_argument("--test", type=int, default=TEST)
    given = parser.parse_args()
    counts = {"train": given.train, "test": given.test}
    if given.what == "pack":
        pack(given.data, given.teacher, given.out or given.bundle, counts)
    else:
        unpack(given.bundle, given.out, counts)


if __name__ == "__main__":
    main()
