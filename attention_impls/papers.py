"""The papers whose networks are reproduced, and the commits of their code that were read."""

from attention_impls.registry import load
from attention_impls.spec import Paper

INLINE_README = "README, table of ImageNet-1K results"
PVT_README_AND_PLOT = (
    "README of PVT; multiply-adds: README of FLatten, figure result1.png, read off the plot"
)
FLATTEN_PLOT = "README, figure result1.png, read off the plot"

DENOMINATOR = (
    "The published code adds epsilon to the mean over keys, as here; the released checkpoints were "
    "trained with an earlier version that adds it to the sum (option denominator of "
    "focused_linear)."
)
"""What every network of FLatten must say."""
AGENT_README = "README of agent_transformer, table of ImageNet-1K results"

INLINE = load("inline").paper
FLATTEN = load("focused_linear").paper
AGENT = load("agent").paper
MILA = load("mila").paper
POLAFORMER = load("polaformer").paper
POLAFORMER_README = "README, table of pretrained models"
RALA = load("rala").paper
SOFT = load("soft").paper
SOFT_NORM = load("soft_norm").paper
DEIT = Paper(
    title="Training data-efficient image transformers & distillation through attention",
    authors=(
        "Hugo Touvron",
        "Matthieu Cord",
        "Matthijs Douze",
        "Francisco Massa",
        "Alexandre Sablayrolles",
        "Hervé Jégou",
    ),
    year=2021,
    venue="ICML",
    url="https://arxiv.org/abs/2012.12877",
    equation="Section 3: the network is that of ViT, table 1",
    code="https://github.com/facebookresearch/deit/tree/7e160fe43f0252d17191b71cbb5826254114ea5b",
)
PVT = Paper(
    title="Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without "
    "Convolutions",
    authors=(
        "Wenhai Wang",
        "Enze Xie",
        "Xiang Li",
        "Deng-Ping Fan",
        "Kaitao Song",
        "Ding Liang",
        "Tong Lu",
        "Ping Luo",
        "Ling Shao",
    ),
    year=2021,
    venue="ICCV",
    url="https://arxiv.org/abs/2102.12122",
    equation="Section 3 and table 1",
    code="https://github.com/whai362/PVT/tree/57e2dfaa5a46f9050d76f306a4fcd9a7c061f520",
)
PVT_V2 = Paper(
    title="PVT v2: Improved Baselines with Pyramid Vision Transformer",
    authors=(
        "Wenhai Wang",
        "Enze Xie",
        "Xiang Li",
        "Deng-Ping Fan",
        "Kaitao Song",
        "Ding Liang",
        "Tong Lu",
        "Ping Luo",
        "Ling Shao",
    ),
    year=2022,
    venue="Computational Visual Media",
    url="https://arxiv.org/abs/2106.13797",
    equation="Section 3 and table 1",
    code="https://github.com/whai362/PVT/tree/57e2dfaa5a46f9050d76f306a4fcd9a7c061f520",
)
SWIN = Paper(
    title="Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
    authors=(
        "Ze Liu",
        "Yutong Lin",
        "Yue Cao",
        "Han Hu",
        "Yixuan Wei",
        "Zheng Zhang",
        "Stephen Lin",
        "Baining Guo",
    ),
    year=2021,
    venue="ICCV",
    url="https://arxiv.org/abs/2103.14030",
    equation="Section 3 and table 7",
    code="https://github.com/microsoft/Swin-Transformer/tree/"
    "f82860bfb5225915aca09c3227159ee9e1df874d",
)
CSWIN = Paper(
    title="CSWin Transformer: A General Vision Transformer Backbone with Cross-Shaped Windows",
    authors=(
        "Xiaoyi Dong",
        "Jianmin Bao",
        "Dongdong Chen",
        "Weiming Zhang",
        "Nenghai Yu",
        "Lu Yuan",
        "Dong Chen",
        "Baining Guo",
    ),
    year=2022,
    venue="CVPR",
    url="https://arxiv.org/abs/2107.00652",
    equation="Section 3 and table 1",
    code="https://github.com/microsoft/CSWin-Transformer/tree/"
    "f111ae2f771df32006e7afd7916835dd67d4cb9d",
)
VIT = Paper(
    title="An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
    authors=(
        "Alexey Dosovitskiy",
        "Lucas Beyer",
        "Alexander Kolesnikov",
        "Dirk Weissenborn",
        "Xiaohua Zhai",
        "Thomas Unterthiner",
        "Mostafa Dehghani",
        "Matthias Minderer",
        "Georg Heigold",
        "Sylvain Gelly",
        "Jakob Uszkoreit",
        "Neil Houlsby",
    ),
    year=2021,
    venue="ICLR",
    url="https://arxiv.org/abs/2010.11929",
    equation="Section 3.1 and table 1",
    code=None,
)

LINEAR = {
    "inline": ("InLine", INLINE),
    "focused_linear": ("FLatten", FLATTEN),
    "agent": ("Agent", AGENT),
    "polaformer": ("Pola", POLAFORMER),
}
"""Mechanism -> the name of its networks, and their paper."""
