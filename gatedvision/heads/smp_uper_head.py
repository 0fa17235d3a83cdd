"""segmentation_models_pytorch's UPerNet on the backbones of this package, for comparison."""

from collections.abc import Sequence

from torch import Tensor, nn


class SmpUPerHead(nn.Module):
    """Decoder and classifier of ``segmentation_models_pytorch.UPerNet``, started as there.

    Needs ``pip install segmentation-models-pytorch``. The logits are resized to the image by the task, as those of
    other heads are.

    Args:
        in_dims: channels of the backbone's maps of 4, 8, 16 and 32 pixels.
        num_classes: classes.
        dim: channels within the decoder.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """

    def __init__(self, in_dims: Sequence[int], num_classes: int, dim: int = 256) -> None:
        super().__init__()
        from segmentation_models_pytorch.base.heads import SegmentationHead
        from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
        from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder

        # Its first two maps would be the image and one of half its size, at which the decoder does not look.
        self.decoder = UPerNetDecoder([3, 0, *in_dims], encoder_depth=len(in_dims) + 1, decoder_channels=dim)
        self.classifier = SegmentationHead(dim, num_classes, kernel_size=1)
        initialize_decoder(self.decoder)
        initialize_head(self.classifier)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Classify every pixel of the finest map.

        Args:
            maps: the backbone's maps ``[B, C_i, H_i, W_i]``, the finest first.

        Returns:
            Logits ``[B, num_classes, H_0, W_0]``.
        """
        return self.classifier(self.decoder([maps[0], maps[0], *maps]))
