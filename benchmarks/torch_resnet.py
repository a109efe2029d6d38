"""ResNet-18 and ResNet-50 in PyTorch, built and named as torchvision has them: peers of ours."""

import functools

import torch
from torch import nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, as torchvision.models.resnet names them."""

    def __init__(self, channels, width, stride):
        """Convolutions of `width` features on maps of `channels`."""
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = nn.Identity()
        if channels != width:
            projection = nn.Conv2d(channels, width, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(width))

    def forward(self, x):
        """[B, channels, H, W] -> a map of the next block."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class BottleneckBlock(nn.Module):
    """1x1, 3x3 with the stride and 1x1 around a shortcut, as torchvision names them."""

    def __init__(self, channels, width, stride):
        """Convolutions of `width` features on maps of `channels`."""
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = nn.Identity()
        if channels != 4 * width:
            projection = nn.Conv2d(channels, 4 * width, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(4 * width))

    def forward(self, x):
        """[B, channels, H, W] -> a map of the next block."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet(nn.Module):
    """torchvision.models.resnet, for RGB images and 1000 classes."""

    def __init__(self, block, expansion, counts):
        """Stages of `counts` blocks, whose maps have `expansion` times the width of a block."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for stage, count in enumerate(counts):
            width, blocks = 64 * 2**stage, []
            for i in range(count):
                blocks.append(block(channels, width, 2 if stage and i == 0 else 1))
                channels = expansion * width
            setattr(self, f'layer{stage + 1}', nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, 1000)

    def forward(self, x):
        """[B, 3, H, W] -> [B, 1000]."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


ResNet18 = functools.partial(ResNet, BasicBlock, 1, (2, 2, 2, 2))
ResNet50 = functools.partial(ResNet, BottleneckBlock, 4, (3, 4, 6, 3))
