"""Batch normalisation folded into the convolutions before it: the same logits in less time.

In eval mode a batch normalisation is a factor and a summand for each channel, which a
convolution's weights and bias can take in. What goes in is a trained network; what comes out is
the same one for prediction alone: it must not be trained again, nor saved.
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


@torch.no_grad()
def fold_batch_normalisation(network: nn.Module) -> None:
    """Fold each batch normalisation of a network into the convolution before it.

    Args:
        network: The network, changed in place and put into eval mode. Logits differ by no more
            than rounding.
    """
    network.eval()
    for part in network.modules():
        if not isinstance(part, nn.Sequential):
            continue
        for (first, conv), (second, norm) in pairwise(list(part.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(part, first, fuse_conv_bn_eval(conv, norm))
                setattr(part, second, nn.Identity())
