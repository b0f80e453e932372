"""What passes between the kernels and the model in each round of a search, and where the latents are kept."""

import math
from typing import NamedTuple

import numpy as np
import torch

from alfish import nest
from alfish.mcts.host import (
    ACTIONS,
    CHANCE,
    DISCOUNT,
    EDGES,
    GATHERED,
    LATENT_FIELDS,
    LATENTS,
    LOGITS,
    PLAYER,
    RETURNED,
    RETURNED_STRIDE,
    REWARD,
    ROW_BYTES,
    STORE,
    VALUE,
    address_table,
)
from alfish.mcts.memory import empty
from alfish.mcts.records import RetainedTrees, RootNode, Step
from alfish.mcts.rule import Rule
from alfish.mcts.tree import Tree


class _Leaf(NamedTuple):
    """A leaf of the latents: where its fields in the table begin, and what the model's answers must be."""

    place: int
    shape: torch.Size
    dtype: torch.dtype
    item_bytes: int
    row_bytes: int


class HostExchange:
    """A model on the CPU: the kernels read its answers, and fetch and store latents, where they lie in memory.

    Small searches are bound by the number of torch operations, so there is none here beside the model's own.

    Args:
        root: the roots, `[B, ...]`.
        tree: the trees.
        rule: how they choose.
        rows: of each question to the model, B · leaves.

    Attributes:
        table: what the kernels are called with.
    """

    def __init__(self, root: RootNode, tree: Tree, rule: Rule, rows: int):
        leaves = [leaf.detach() for leaf in nest.leaves(root.latent)]
        num_nodes = tree.visits.shape[1]
        self._structure = nest.structure(root.latent)
        self._is_tensor = isinstance(root.latent, torch.Tensor)
        self._stores = [empty((num_nodes, *leaf.shape), leaf.dtype, leaf.device) for leaf in leaves]
        # Two, in turns: the kernels fetch latents into the one while the model's answers may be views of the other.
        self._gathered, self._spare = ([leaf.new_empty((rows, *leaf.shape[1:])) for leaf in leaves] for _ in range(2))
        self._edges = torch.zeros((2, rows), dtype=torch.int64, device="cpu")
        actions = torch.zeros(rows, dtype=torch.int64, device="cpu")
        self._question, self._next_question = (
            (nest.unflatten(self._structure, buffers), actions) for buffers in (self._gathered, self._spare)
        )
        self._rows_shape = torch.Size((rows,))
        self._logits_shape = torch.Size((rows, tree.priors.shape[2]))
        # What torch makes by default may be of another type, or elsewhere.
        self._zero = torch.zeros(1, dtype=torch.float32, device="cpu")
        self._zero_address = self._zero.data_ptr()
        # What the table points at, kept alive.
        self._held: object = (tree, rule)
        self._answers: object = ()
        self._has_players, self._has_chance = root.to_play is not None, False
        self.table = address_table(tree, rule, rows, len(leaves))
        self._entries = memoryview(self.table)  # type: ignore[arg-type]
        self._entries[EDGES], self._entries[ACTIONS] = self._edges.data_ptr(), actions.data_ptr()
        self._entries[PLAYER], self._entries[CHANCE] = self._zero_address, self._zero_address
        self._leaves = []
        for index, (store, gathered) in enumerate(zip(self._stores, self._gathered, strict=True)):
            item_bytes = gathered.element_size()
            row_bytes = math.prod(gathered.shape[1:]) * item_bytes
            place = LATENTS + LATENT_FIELDS * index
            self._leaves.append(_Leaf(place, gathered.shape, gathered.dtype, item_bytes, row_bytes))
            self._entries[place + STORE] = store.data_ptr()
            self._entries[place + ROW_BYTES] = row_bytes
            self._entries[place + GATHERED] = gathered.data_ptr()

    def write_root(self, root: RootNode, legal_mask: torch.Tensor | None) -> tuple[np.ndarray, np.ndarray]:
        """Enters the roots as answers, and returns their values `[B]` and masked logits `[B, A]`."""
        for store, leaf in zip(self._stores, nest.leaves(root.latent), strict=True):
            store[0].copy_(leaf.detach())
        values, logits, players = root_answers(root, legal_mask)
        reward, discount = self._zero, torch.ones_like(self._zero)
        self._answers = (values, logits, players, discount)
        entries = self._entries
        places = (REWARD, DISCOUNT, VALUE)
        for place, tensor in zip(places, (reward, discount, values), strict=True):
            entries[place], entries[place + 1] = tensor.data_ptr(), 4 * (len(tensor) > 1)
        if self._has_players:
            entries[PLAYER], entries[PLAYER + 1] = players.data_ptr(), 4
        entries[LOGITS], entries[LOGITS + 1] = logits.data_ptr(), 4 * logits.shape[1]
        entries[LOGITS + 2] = 4
        return values.numpy(), logits.numpy()

    def write_retained(self, retained: RetainedTrees) -> None:
        """Enters the latents of retained nodes other than the root."""
        for store, leaf in zip(self._stores, nest.leaves(retained.latents), strict=True):
            store[1 : retained.num_nodes].copy_(leaf[1:])

    def questions(self) -> tuple[nest.Nest, torch.Tensor]:
        """The latents `[rows, ...]` and actions `[rows]` to ask the model about."""
        return self._question

    def receive(self, step: Step, node: int) -> None:
        """Points the kernels at the model's answers; they read them when they are called next."""
        del node
        # Entering numbers through a memoryview takes a third of the time that NumPy takes.
        table = self._entries
        reward, discount, value, logits = step.reward, step.discount, step.value, step.prior_logits
        rows_shape, float32 = self._rows_shape, torch.float32
        # Addresses are handed to compiled code, so what is not exactly as expected is converted or refused.
        if not (reward.dtype is float32 and reward.is_cpu and reward.shape == rows_shape):
            reward = as_floats("reward", reward, rows_shape)
        if not (discount.dtype is float32 and discount.is_cpu and discount.shape == rows_shape):
            discount = as_floats("discount", discount, rows_shape)
        if not (value.dtype is float32 and value.is_cpu and value.shape == rows_shape):
            value = as_floats("value", value, rows_shape)
        if not (logits.dtype is float32 and logits.is_cpu and logits.shape == self._logits_shape):
            logits = as_floats("prior_logits", logits, self._logits_shape)
        # `stride()` and taking it apart takes half of the time of `stride(0)`.
        (reward_stride,), (discount_stride,), (value_stride,) = reward.stride(), discount.stride(), value.stride()
        row_stride, column_stride = logits.stride()
        table[REWARD], table[REWARD + 1] = reward.data_ptr(), 4 * reward_stride
        table[DISCOUNT], table[DISCOUNT + 1] = discount.data_ptr(), 4 * discount_stride
        table[VALUE], table[VALUE + 1] = value.data_ptr(), 4 * value_stride
        table[LOGITS] = logits.data_ptr()
        table[LOGITS + 1], table[LOGITS + 2] = 4 * row_stride, 4 * column_stride
        optional: object = ()
        if step.to_play is not None or step.is_chance is not None or self._has_players or self._has_chance:
            if (step.to_play is not None) != self._has_players:
                raise ValueError(
                    "the model's to_play came or went in the middle of a search; expected it always or never"
                )
            self._has_chance = self._has_chance or step.is_chance is not None
            optional = (
                self._receive_optional(PLAYER, "to_play", step.to_play),
                self._receive_optional(CHANCE, "is_chance", step.is_chance),
            )
        # A latent that is a single tensor is the common case, and taking a nest apart takes its time.
        kept: object
        if self._is_tensor and isinstance(step.latent, torch.Tensor):
            kept = self._receive_latent(self._leaves[0], step.latent, self._spare[0])
        elif nest.structure(step.latent) == self._structure:
            kept = list(map(self._receive_latent, self._leaves, nest.leaves(step.latent), self._spare))
        else:
            raise ValueError(
                f"the model's latent is now {nest.structure(step.latent)}; expected {self._structure}, as in its first"
                " answer"
            )
        self._answers = (reward, discount, value, logits, optional, kept)
        self._question, self._next_question = self._next_question, self._question
        self._gathered, self._spare = self._spare, self._gathered

    def _receive_optional(self, place: int, name: str, tensor: torch.Tensor | None) -> torch.Tensor:
        if tensor is None:
            self._entries[place], self._entries[place + 1] = self._zero_address, 0
            return self._zero
        tensor = as_floats(name, tensor, self._rows_shape)
        self._entries[place], self._entries[place + 1] = tensor.data_ptr(), 4 * tensor.stride(0)
        return tensor

    def _receive_latent(self, leaf: _Leaf, latent: torch.Tensor, spare: torch.Tensor) -> torch.Tensor:
        place, shape, dtype, item_bytes, row_bytes = leaf
        if not (latent.dtype is dtype and latent.is_cpu and latent.shape == shape):
            if latent.shape != shape:
                raise ValueError(f"the model's latent has the shape {tuple(latent.shape)}; expected {tuple(shape)}")
            if not torch.can_cast(latent.dtype, dtype):
                raise ValueError(f"the model's latent has the dtype {latent.dtype}; expected {dtype}")
            latent = latent.to(spare)
        strides = latent.stride()
        if len(strides) == 2 and strides[1] == 1:
            row_bytes = strides[0] * item_bytes
        elif not latent.is_contiguous():
            latent = latent.contiguous()
        entries = self._entries
        entries[place + RETURNED] = latent.data_ptr()
        entries[place + RETURNED_STRIDE] = row_bytes
        entries[place + GATHERED] = spare.data_ptr()
        return latent

    def latents(self) -> nest.Nest:
        """The latents of all nodes, nest of `[N, B, ...]`."""
        return nest.unflatten(self._structure, self._stores)


class DeviceExchange:
    """A model on another device, with the trees in host memory: one upload and one download in each round.

    Args and attributes are those of `HostExchange`.
    """

    def __init__(self, root: RootNode, tree: Tree, rule: Rule, rows: int):
        leaves = [leaf.detach() for leaf in nest.leaves(root.latent)]
        num_nodes, num_actions = tree.visits.shape[1], tree.priors.shape[2]
        self._device = root.prior_logits.device
        self._num_trees, self._num_rows = tree.visits.shape[0], rows
        self._structure = nest.structure(root.latent)
        self._stores = [leaf.new_empty((num_nodes, *leaf.shape)) for leaf in leaves]
        pinned = self._device.type == "cuda"
        self._edges = torch.zeros((2, rows), dtype=torch.int64, device="cpu", pin_memory=pinned)
        # Reward, discount, value, to_play, is_chance, then the logits.
        shape = (rows, 5 + num_actions)
        self._answers = torch.zeros(shape, dtype=torch.float32, device="cpu", pin_memory=pinned)
        self._held: object = (tree, rule)
        self.table = address_table(tree, rule, rows, 0)
        self.table[EDGES], self.table[ACTIONS] = self._edges.data_ptr(), self._edges[1].data_ptr()
        for column, place in enumerate((REWARD, DISCOUNT, VALUE, PLAYER, CHANCE)):
            self.table[place : place + 2] = self._answers[:, column].data_ptr(), 4 * (5 + num_actions)
        self.table[LOGITS : LOGITS + 3] = self._answers[:, 5:].data_ptr(), 4 * (5 + num_actions), 4

    def write_root(self, root: RootNode, legal_mask: torch.Tensor | None) -> tuple[np.ndarray, np.ndarray]:
        """Enters the roots as answers, and returns their values `[B]` and masked logits `[B, A]`."""
        for store, leaf in zip(self._stores, nest.leaves(root.latent), strict=True):
            store[0].copy_(leaf.detach())
        values, logits, players = root_answers(root, legal_mask)
        answers = self._answers[: self._num_trees]
        answers[:, 0], answers[:, 1], answers[:, 2], answers[:, 3] = 0.0, 1.0, values, players
        answers[:, 5:] = logits
        return values.numpy(), logits.numpy()

    def write_retained(self, retained: RetainedTrees) -> None:
        """Enters the latents of retained nodes other than the root."""
        for store, leaf in zip(self._stores, nest.leaves(retained.latents), strict=True):
            store[1 : retained.num_nodes].copy_(leaf[1:])

    def questions(self) -> tuple[nest.Nest, torch.Tensor]:
        """The latents `[rows, ...]` and actions `[rows]` to ask the model about."""
        # The host writes `edges` again only after `receive`, which waits for the device.
        places, actions = self._edges.to(self._device, non_blocking=True)
        gathered = [torch.index_select(store.flatten(0, 1), 0, places) for store in self._stores]
        return nest.unflatten(self._structure, gathered), actions

    def receive(self, step: Step, node: int) -> None:
        """Stores the new latents, and downloads the answers."""
        leaves = self._num_rows // self._num_trees
        for store, latent in zip(self._stores, nest.leaves(step.latent), strict=True):
            store[node : node + leaves].copy_(latent.unflatten(0, (self._num_trees, leaves)).transpose(0, 1))
        zero = torch.zeros_like(step.reward)
        players = zero if step.to_play is None else step.to_play.float()
        chance = zero if step.is_chance is None else step.is_chance.float()
        # Packed on the device, because each transfer waits for the device once.
        columns = torch.stack((step.reward, step.discount, step.value, players, chance), dim=1)
        self._answers.copy_(torch.cat((columns, step.prior_logits), dim=1))

    def latents(self) -> nest.Nest:
        """The latents of all nodes, nest of `[N, B, ...]`."""
        return nest.unflatten(self._structure, self._stores)


def root_answers(root: RootNode, legal_mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The roots' values `[B]`, logits `[B, A]` with -inf at illegal actions, and players `[B]`, float32 on the host."""
    values = root.value.detach().to("cpu", torch.float32, copy=True)
    logits = root.prior_logits.detach().to("cpu", torch.float32, copy=True)
    if legal_mask is not None:
        logits.masked_fill_(~legal_mask.to("cpu"), -torch.inf)
    players = torch.zeros_like(values) if root.to_play is None else root.to_play.to("cpu", torch.float32, copy=True)
    return values, logits.contiguous(), players.contiguous()


def as_floats(name: str, tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The tensor as float32 on the CPU; a ValueError if its shape is wrong."""
    if tensor.shape != shape:
        raise ValueError(f"the model's {name} has the shape {tuple(tensor.shape)}; expected {tuple(shape)}")
    return tensor.to("cpu", torch.float32)
