"""The parts that a stored configuration may name: exact names of classes that read nothing but their arguments.

A stored configuration may come from somebody else, and to make what its `_target_` names is to call it. Each name here
is an object that its module offers to the public, and calling it neither runs what an argument says, nor loads code,
nor writes: no `Lambda`, nothing of `torch.hub`, no callback that writes where it is told.
"""

from __future__ import annotations

_OURS = {
    "hyplearn.data.batches.crops": "CenterCrop RandomCrop",
    "hyplearn.data.batches.transforms": "Augmentation",
    "hyplearn.data.datamodule": "ImageDataModule",
    "hyplearn.data.retrieval_datamodule": "RetrievalDataModule",
    "hyplearn.data.sources.cars": "Cars",
    "hyplearn.data.sources.cub": "CUB",
    "hyplearn.data.sources.datasets": "CIFAR10 CIFAR100 Digits FashionMNIST TinyImageNet",
    "hyplearn.data.sources.folder": "ImageFolder",
    "hyplearn.data.sources.inshop": "InShop",
    "hyplearn.data.sources.retrieval_arrays": "DigitsRetrieval FashionMNISTRetrieval",
    "hyplearn.data.sources.retrieval_csv": "CSVRetrieval",
    "hyplearn.data.sources.retrieval_folder": "ImageFolderRetrieval",
    "hyplearn.data.sources.shards": "RetrievalShards Shards",
    "hyplearn.data.sources.sop": "SOP",
    "hyplearn.data.sources.synthetic": "Synthetic",
    "hyplearn.losses": """
        ArcFace Contrastive ConvexCombination CrossBatchMemory CrossEntropy FastAP HIER HierarchicalLoss Margin
        MultiSimilarity NormalizedSoftmax PairwiseCrossEntropy ProxyAnchor ProxyNCA ProxyNCAPlusPlus SoftTriple
        Triplet""",
    "hyplearn.losses.class_proxies": "ArcFace NormalizedSoftmax ProxyAnchor ProxyNCA ProxyNCAPlusPlus SoftTriple",
    "hyplearn.losses.classification": "CrossEntropy",
    "hyplearn.losses.hier": "HIER HierarchicalLoss",
    "hyplearn.losses.mix": "ConvexCombination",
    "hyplearn.losses.pairs": "Contrastive CrossBatchMemory FastAP Margin MultiSimilarity Triplet",
    "hyplearn.losses.pairwise": "PairwiseCrossEntropy",
    "hyplearn.manifolds": "AmbientLorentz Curvature Euclidean Lorentz Manifolds PoincareBall Sphere",
    "hyplearn.manifolds.ambient": "AmbientLorentz",
    "hyplearn.manifolds.base": "SingleManifold",
    "hyplearn.manifolds.curvature": "Curvature",
    "hyplearn.manifolds.euclidean": "Euclidean",
    "hyplearn.manifolds.family": "Manifolds",
    "hyplearn.manifolds.lorentz": "Lorentz",
    "hyplearn.manifolds.poincare": "PoincareBall",
    "hyplearn.manifolds.sphere": "Sphere",
    "hyplearn.models": "ConvolutionOptions NormOptions RescaleSites ResNet",
    "hyplearn.models.embedder": "Embedder",
    "hyplearn.models.necks": "Branch LorentzNeck Neck",
    "hyplearn.models.options": "ConvolutionOptions NormOptions RescaleSites",
    "hyplearn.models.resnet": "ResNet",
    "hyplearn.models.small": "SmallConvNet SmallViT",
    "hyplearn.optim": "RiemannianAdam RiemannianAdamW RiemannianSGD",
    "hyplearn.optim.radam": "RiemannianAdam",
    "hyplearn.optim.radamw": "RiemannianAdamW",
    "hyplearn.optim.rsgd": "RiemannianSGD",
}

_TRANSFORMS = """
    CenterCrop ColorJitter Compose ConvertImageDtype ElasticTransform GaussianBlur Grayscale Normalize PILToTensor Pad
    RandAugment RandomAdjustSharpness RandomAffine RandomApply RandomAutocontrast RandomChoice RandomCrop RandomEqualize
    RandomErasing RandomGrayscale RandomHorizontalFlip RandomInvert RandomOrder RandomPerspective RandomPosterize
    RandomResizedCrop RandomRotation RandomSolarize RandomVerticalFlip Resize ToPILImage TrivialAugmentWide AugMix
    AutoAugment"""

_OTHERS = {
    "geoopt": """
        BirkhoffPolytope CanonicalStiefel Euclidean EuclideanStiefel EuclideanStiefelExact Lorentz PoincareBall
        PoincareBallExact Scaled Sphere SphereExact SphereProjection SphereProjectionExact Stereographic
        StereographicExact SymmetricPositiveDefinite""",
    "geoopt.optim": "RiemannianAdam RiemannianSGD",
    "pytorch_lightning.callbacks": """
        DeviceStatsMonitor EarlyStopping GradientAccumulationScheduler LearningRateMonitor ModelSummary RichModelSummary
        RichProgressBar TQDMProgressBar Timer""",
    "timm.loss": "JsdCrossEntropy LabelSmoothingCrossEntropy SoftTargetCrossEntropy",
    "timm.optim": "AdamP Adan Lamb Lars Lion NAdamW SGDP SGDW",
    "torch.nn": """
        CrossEntropyLoss MultiMarginLoss NLLLoss Identity Flatten Linear Conv2d BatchNorm2d Dropout Dropout2d ReLU GELU
        SiLU Tanh Sequential AdaptiveAvgPool2d AvgPool2d MaxPool2d""",
    "torch.optim": "ASGD Adadelta Adagrad Adam AdamW Adamax NAdam RAdam RMSprop Rprop SGD",
    "torchvision.models": """
        convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161 densenet169
        densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4
        inception_v3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small resnet18 resnet34 resnet50 resnet101 resnet152
        vgg11 vgg11_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 vit_b_32 vit_l_16 wide_resnet50_2""",
    "torchvision.transforms": _TRANSFORMS,
    "torchvision.transforms.v2": f"{_TRANSFORMS} GaussianNoise JPEG RandomPhotometricDistort RGB ScaleJitter ToImage",
}

OURS = frozenset(f"{module}.{name}" for module, names in _OURS.items() for name in names.split())
OTHERS = frozenset(f"{module}.{name}" for module, names in _OTHERS.items() for name in names.split())
REGISTERED = OURS | OTHERS
