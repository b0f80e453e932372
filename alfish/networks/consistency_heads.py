"""The heads of the self-supervised consistency loss: what a model's dynamics say should be what is then seen."""

import gin
import torch
import torch.nn.functional

from alfish.checks import check_at_least


@gin.configurable
class SimSiamHeads(torch.nn.Module):
    """A projection and a prediction over it (Chen and He 2021, "Exploring simple Siamese representation learning").

    As EfficientZero uses them (Ye et al. 2021, section 4.1 and appendix A.1): the projection has three layers with
    batch normalisation, of which the last has no rectifier, the prediction two. The loss of latents s^ that a model
    predicts against the encodings s of what was observed is 1 - cos(prediction(projection(s^)), projection(s)), and no
    gradient passes the second: without that, and the prediction, both would become the same for all inputs.

    Args:
        input_size: elements of a latent.
        projection_size: of the projection's layers.
        prediction_size: of the prediction's hidden layer. EfficientZero has 1024 and 512.

    Raises:
        ValueError: a size is smaller than 1.
    """

    def __init__(self, input_size: int, projection_size: int = 128, prediction_size: int = 64):
        super().__init__()
        check_at_least("SimSiamHeads.projection_size", projection_size, 1)
        check_at_least("SimSiamHeads.prediction_size", prediction_size, 1)
        self._projection = torch.nn.Sequential(
            *_normalized_layer(input_size, projection_size),
            torch.nn.ReLU(inplace=True),
            *_normalized_layer(projection_size, projection_size),
            torch.nn.ReLU(inplace=True),
            *_normalized_layer(projection_size, projection_size),
        )
        self._prediction = torch.nn.Sequential(
            *_normalized_layer(projection_size, prediction_size),
            torch.nn.ReLU(inplace=True),
            torch.nn.Linear(prediction_size, projection_size),
        )

    def forward(self, predicted: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
        """The losses `[N]` in [0, 2] of latents `[N, input_size]` against encodings of observations, alike."""
        with torch.no_grad():
            target = self._projection(observed)
        prediction = self._prediction(self._projection(predicted))
        return 1.0 - torch.nn.functional.cosine_similarity(prediction.float(), target.float())


def _normalized_layer(input_size: int, output_size: int) -> tuple[torch.nn.Module, torch.nn.Module]:
    # The normalisation takes the mean away, so a bias would do nothing.
    return torch.nn.Linear(input_size, output_size, bias=False), torch.nn.BatchNorm1d(output_size)
