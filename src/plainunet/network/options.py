"""What a network can be, as flags of the command line; it stands apart so that help comes fast.

The fields and their defaults are the arguments of `UNet`.
"""

from pydantic import Field

from plainunet.config import NetworkConfig


class NetworkOptions(NetworkConfig):
    """All arguments of a UNet."""

    in_channels: int = Field(default=3, ge=1, le=4096)
    """Channels of a picture."""
    num_classes: int = Field(default=2, ge=2, le=255)
    """Classes, background included."""
    base_channels: int = Field(default=64, ge=1, le=1024)
    """Channels of the first level; each level below has twice as many."""
