"""Scikit-learn's handwritten digits, 8 x 8 pixels, four fifths for training: no download, no folder."""

from mmengine.dataset import DefaultSampler
from torchvision.transforms import RandomAffine

from gatedvision.data import Digits, collate_samples
from gatedvision.metrics import Accuracy

# Up to 12 degrees, one pixel and a tenth of the size; 2 is Pillow's number for bilinear.
train_pipeline = dict(type=RandomAffine, degrees=12, translate=(0.125, 0.125), scale=(0.9, 1.1), interpolation=2)

train_dataloader = dict(
    dataset=dict(type=Digits, split="train", transform=train_pipeline),
    sampler=dict(type=DefaultSampler, shuffle=True),
    collate_fn=dict(type=collate_samples),
    batch_size=64,
    drop_last=True,
    num_workers=0,
)
val_dataloader = dict(
    dataset=dict(type=Digits, split="val"),
    sampler=dict(type=DefaultSampler, shuffle=False),
    collate_fn=dict(type=collate_samples),
    batch_size=128,
    num_workers=0,
)
val_evaluator = dict(type=Accuracy, topk=(1,))
val_cfg = dict()
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict()
