"""Networks that predict together: which of them can."""

from collections.abc import Iterable

from plainunet.network.checkpoint import Card
from plainunet.network.unet import UNet


def require_same_classes(network: UNet, card: Card, others: Iterable[Card]) -> None:
    """Refuse networks whose probabilities cannot be averaged.

    Args:
        network: The first network.
        card: Its description.
        others: Descriptions of the others.

    Raises:
        ValueError: The first one's names are not as many as its classes, or others are not the
            same.
    """
    if len(card.class_names) != network.num_classes:
        raise ValueError(
            f"{len(card.class_names)} class names for a network of {network.num_classes} "
            "classes, background included."
        )
    for other in others:
        if other.class_names != card.class_names:
            raise ValueError(
                "networks that are averaged need the same classes in the same order; these "
                f"have {', '.join(card.class_names)} and {', '.join(other.class_names)}."
            )


def require_finer(fine: tuple[UNet, Card], coarse: tuple[UNet, Card]) -> None:
    """Refuse a network that cannot refine what another one gives.

    Args:
        fine: The network, with its description.
        coarse: The other one.

    Raises:
        ValueError: It was not trained to refine, or for other classes or channels.
    """
    (finer, card), (network, other) = fine, coarse
    if not card.refines:
        raise ValueError(
            "--refine takes a model that was trained with --refine-of; this one was not."
        )
    told = finer.num_classes - 1
    if (finer.num_classes, finer.in_channels - told) != (network.num_classes, network.in_channels):
        raise ValueError(
            f"--refine: that model is for {finer.num_classes} classes and pictures of "
            f"{finer.in_channels - told} channels; the one that it shall refine has "
            f"{network.num_classes} classes and takes {network.in_channels} channels."
        )
    if card.class_names != other.class_names:
        raise ValueError(
            f"--refine: that model is for {', '.join(card.class_names)}; the one that it shall "
            f"refine is for {', '.join(other.class_names)}."
        )
