"""The data of a task, as searches and trainings open them."""

from kdzero_gp.tasks import get


def load(task, data=None, *, image_size=None, channels=None):
    """``image_size``: height and width, or a side of a square."""
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    return get(task).open(data, size, channels)
