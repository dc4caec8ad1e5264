"""Rows that are small square images, as classes to draw N-way tasks from."""

import torch

from adapters.tasks import TaskData, TaskSet

TURNS = (0, 90, 180, 270)


def with_rotations(classes: TaskSet, side: int, channels: int = 1) -> TaskSet:
    """Return each class four times, turned by 0, 90, 180 and 270 degrees, as classes of their own.

    A turned character is another character to a learner that has to tell them apart, so that there
    are four times the classes to learn from (A. Santoro, S. Bartunov, M. Botvinick, D. Wierstra and
    T. Lillicrap, "Meta-learning with memory-augmented neural networks", ICML 2016). For
    meta-training alone: classes that are turned in meta-test as well measure something else.

    Args:
        classes: One ``TaskData`` per class, inputs ``(n, channels * side * side)``.
        side: Height and width of an image, pixels.
        channels: Of an image.

    Returns:
        Classes named ``<name>@<degrees>``. A turned row keeps the key of its image: a split that
        refuses the image on two sides refuses its turned copies too.

    Raises:
        ValueError: The rows are no such images.
    """
    turned = []
    for task in classes.tasks:
        if task.inputs.shape[1] != channels * side * side:
            raise ValueError(
                f"class {task.name!r} has rows of {task.inputs.shape[1]} values, not of {channels}"
                f" x {side} x {side}: correct side or channels"
            )
        images = task.inputs.reshape(-1, channels, side, side)
        for quarter, degrees in enumerate(TURNS):
            inputs = torch.rot90(images, quarter, (2, 3)).reshape(len(task), -1)
            turned.append(TaskData(f"{task.name}@{degrees}", inputs, task.targets, task.keys))
    return TaskSet(tuple(turned))
