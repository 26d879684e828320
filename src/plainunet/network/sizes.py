"""Which sizes go through valid convolutions, and what comes out: 572 -> 388 in the paper.

Each double convolution takes 4 pixels; a feature can be halved if its side is even ("it is
important to select the input tile size such that all 2x2 max-pooling operations are applied to
a layer with an even x- and y-size", Ronneberger et al. 2015, section 2).
"""

from itertools import count


def output_side(side: int, depth: int) -> int | None:
    """Say what is left of a side.

    Args:
        side: Height or width of a picture [pixels].
        depth: How often it is halved.

    Returns:
        That of the logits [pixels], or None where it does not fit.
    """
    for _ in range(depth):
        side -= 4
        if side < 2 or side % 2:
            return None
        side //= 2
    for _ in range(depth):
        side = 2 * (side - 4)
    return side - 4 if side > 4 else None


def needed_side(side: int, depth: int) -> int:
    """Say how large a picture's side must be for logits of at least this side.

    Args:
        side: Least height or width of the logits [pixels].
        depth: How often the picture is halved.

    Returns:
        Smallest height or width of the picture that will do [pixels].
    """
    return next(n for n in count(side) if (output_side(n, depth) or 0) >= side)


def fitting_sides(height: int, width: int, depth: int) -> tuple[int, int]:
    """Say how large the logits of a picture are.

    Args:
        height: Height of the picture [pixels].
        width: Its width [pixels].
        depth: How often it is halved.

    Returns:
        Height and width of the logits [pixels].

    Raises:
        ValueError: A side does not fit; the message names the nearest that do.
    """
    left = output_side(height, depth), output_side(width, depth)
    if left[0] and left[1]:
        return left[0], left[1]
    name, side = ("width", width) if left[0] else ("height", height)
    above = next(n for n in count(side) if output_side(n, depth))
    below = next((n for n in range(side, 0, -1) if output_side(n, depth)), None)
    nearest = f"{below} or {above}" if below else f"{above}, the smallest"
    raise ValueError(
        f"A picture of {height} x {width} pixels (height x width) does not fit valid "
        f"convolutions of depth {depth}: with this {name} a feature cannot be halved, or "
        f"nothing is left. The nearest {name} that fits is {nearest}."
    )
