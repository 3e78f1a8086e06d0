"""How images are normalised for a network: ``(x - mean) / std`` of each channel of images on the scale [0, 1]. By
numbers, or by a name for them."""

from __future__ import annotations

from kdzero_gp.data.dataset import Statistics
from kdzero_gp.errors import SettingError

# Mean and deviation of ImageNet's training images, as torchvision's and timm's networks were trained with.
IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# The same of grey images, as their luminance is weighted.
IMAGENET_GREY = Statistics((0.459,), (0.226,))
# Images as they are, on the scale [0, 1].
NONE = Statistics((0.0,), (1.0,))
# What an option may say in place of numbers.
NAMED = {"imagenet": IMAGENET, "none": NONE}
# What is tried where nothing says what a teacher was trained with, besides these images' own mean and deviation: values
# that published weights are known to have, each as the options take it.
TRIED = {
    "imagenet": IMAGENET,
    "none": NONE,
    "0.5": Statistics((0.5,), (0.5,)),  # [-1, 1], as Inception's and many transformers'
    # the deviation of a batch's channel means in place of the pixels', as many CIFAR recipes copy it from one another
    "0.4914,0.4822,0.4465": Statistics((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}


def parse_statistics(role: str, mean: str | None, std: str | None) -> Statistics | None:
    """What ``--teacher-mean`` and ``--teacher-std`` say, or the student's; None: nothing. A name for one of them stands
    for both. Raises SettingError for what is neither numbers nor a name, and for numbers without the others.

    >>> parse_statistics("teacher", "0.5", "0.25,0.5,0.25")
    Statistics(mean=(0.5,), std=(0.25, 0.5, 0.25))
    >>> parse_statistics("teacher", "none", None)
    Statistics(mean=(0.0,), std=(1.0,))
    """
    if mean is None and std is None:
        return None
    texts = {"mean": mean or std, "std": std or mean}
    found = {}
    for part, text in texts.items():
        option = f"--{role}-{part}"
        assert text is not None
        if text.strip() in NAMED:
            found[part] = getattr(NAMED[text.strip()], part)
            continue
        if (mean if part == "mean" else std) is None:
            other = "std" if part == "mean" else "mean"
            raise SettingError(f"{option} is missing; give it, or {' or '.join(NAMED)} as --{role}-{other}")
        try:
            found[part] = tuple(float(number) for number in text.split(","))
        except ValueError:
            raise SettingError(
                f"{option} takes a number, one for each channel (0.49,0.48,0.45), {' or '.join(NAMED)}, got {text!r}"
            ) from None
    lengths = {len(found["mean"]), len(found["std"])} - {1}
    if len(lengths) > 1 or not all(value == value and abs(value) < float("inf") for value in found["mean"]):
        raise SettingError(f"--{role}-mean and --{role}-std need finite numbers, equally many or one for all channels")
    if not all(0 < deviation < float("inf") for deviation in found["std"]):
        raise SettingError(f"--{role}-std must be above 0, got {texts['std']}")
    return Statistics(**found)


def for_channels(statistics: Statistics, channels: int, role: str) -> Statistics:
    """The same for images of so many channels. Raises SettingError where there are other numbers of values."""
    if channels == 1:
        grey = {IMAGENET.mean: IMAGENET_GREY.mean, IMAGENET.std: IMAGENET_GREY.std}
        statistics = Statistics(*(grey.get(values, values) for values in statistics))
    wrong = next((values for values in statistics if len(values) not in (1, channels)), None)
    if wrong is not None:
        raise SettingError(
            f"--{role}-mean and --{role}-std hold {len(wrong)} values and the {role}'s images have {channels} "
            "channels; give one for each, or one for all"
        )
    mean, std = (values if len(values) == channels else values * channels for values in statistics)
    return Statistics(mean, std)


def written(values: tuple[float, ...]) -> str:
    """Values as the options take them.

    >>> written((0.5, 0.25))
    '0.5,0.25'
    """
    return ",".join(f"{value:.7g}" for value in values)
