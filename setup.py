"""Packaging of alfish. Exact, tested versions are in constraints.txt; here stand only the limits that matter."""

from setuptools import find_packages, setup

setup(
    name="alfish",
    version="0.1.0",
    description="A PyTorch reinforcement learning framework with tree search, configured with gin",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["alfish", "alfish.*"]),
    package_data={"alfish": ["configs/*.gin", "viewers/tree_page/*"]},
    install_requires=[
        "absl-py",
        # 0.5.0 is what alfish/gin_config.py guards against; another minor version needs another look.
        "gin-config>=0.5,<0.6",
        "gymnasium>=1.0",
        "numba",
        "numpy",
        "optree",
        "tensorboard",
        # Before 2.10, torch.load(weights_only=True) could be made to run code.
        "torch>=2.10",
    ],
    extras_require={
        # ale-py and MinAtar are under the GPL: never core dependencies.
        "atari": ["ale-py"],
        "box2d": ["gymnasium[box2d]"],
        # Searches whose trees stay on the GPU. With a torch for CUDA 12: pip install "numba-cuda[cu12]".
        "cuda": ["numba-cuda[cu13]>=0.30"],
        "minatar": ["MinAtar"],
        "mujoco": ["gymnasium[mujoco]"],
        "docs": [],  # the documentation is plain Markdown and needs nothing
        "plot": ["matplotlib"],
        # To play a run: windows, and the drawing of many environments (pygame); videos (imageio).
        "video": ["gymnasium[classic-control]", "imageio[ffmpeg]"],
        "test": ["hypothesis", "mctx", "pytest", "pytest-timeout"],
        "dev": ["mypy", "ruff"],
        # The programs that `make bench` compares with.
        "bench": ["mctx", "stable-baselines3"],
    },
)
