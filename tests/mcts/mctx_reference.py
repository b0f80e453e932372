"""Runs searches of mctx on random games: a program of its own, so that JAX's threads stay out of the tests' process.

python mctx_reference.py GAMES.npz RESULTS.npz: see `test_equals_mctx.py` for what is in the files.
"""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import mctx
import numpy as np

QTRANSFORMS = {
    "min_max": mctx.qtransform_by_min_max,
    "parent_and_siblings": mctx.qtransform_by_parent_and_siblings,
    "mix_value": mctx.qtransform_completed_by_mix_value,
}


def edge(tables, state, action):
    """The tables' numbers for one edge of each row, and the state behind it."""
    row = jnp.arange(len(state))
    behind = tables["next"][row, state, action]
    inside = {name: tables[name][row, state, action] for name in ("reward", "discount")}
    return behind, inside | {name: tables[name][row, behind] for name in ("logits", "value")}


def recurrent(tables, key, action, state):
    del key
    state, answer = edge(tables, state, action)
    output = mctx.RecurrentFnOutput(
        reward=answer["reward"], discount=answer["discount"], prior_logits=answer["logits"], value=answer["value"]
    )
    return output, state


def decision(tables, key, action, state):
    """From a state to an afterstate, whose logits are the first C ones."""
    del key
    state, answer = edge(tables, state, action)
    return mctx.DecisionRecurrentFnOutput(
        chance_logits=answer["logits"][:, : tables["outcomes"].size], afterstate_value=answer["value"]
    ), state


def chance(tables, key, outcome, state):
    del key
    state, answer = edge(tables, state, outcome)
    return mctx.ChanceRecurrentFnOutput(
        action_logits=answer["logits"][:, : tables["actions"].size],
        value=answer["value"],
        reward=answer["reward"],
        discount=answer["discount"],
    ), state


def run(options, tables):
    """One call of mctx; `options` are its name in `policy` and its arguments."""
    policy, qtransform = options.pop("policy"), QTRANSFORMS[options.pop("qtransform")]
    arguments = {"qtransform": functools.partial(qtransform, **options.pop("of_qtransform", {}))}
    if policy != "gumbel_muzero_policy":
        arguments["dirichlet_fraction"] = 0.0
    if policy == "stochastic_muzero_policy":
        arguments |= {"decision_recurrent_fn": decision, "chance_recurrent_fn": chance}
    else:
        arguments["recurrent_fn"] = recurrent
    if "legal" in tables:
        arguments["invalid_actions"] = (~tables.pop("legal")).astype(np.float32)
    logits, value = tables["logits"][:, 0], tables["value"][:, 0]
    if "actions" in tables:
        logits = logits[:, : tables["actions"].size]
    root = mctx.RootFnOutput(prior_logits=logits, value=value, embedding=jnp.zeros(len(value), jnp.int32))

    @jax.jit
    def search(tables, root):
        output = getattr(mctx, policy)(tables, jax.random.PRNGKey(0), root, **options, **arguments)
        tree, summary = output.search_tree, output.search_tree.summary()
        results = {"visits": summary.visit_counts, "value": summary.value, "q_values": summary.qvalues}
        results |= {"weights": output.action_weights, "action": output.action}
        results["transformed"] = jax.vmap(arguments["qtransform"], in_axes=(0, None))(tree, 0)
        if policy == "gumbel_muzero_policy":
            results["gumbel"] = tree.extra_data.root_gumbel
        return results

    return search(tables, root)


def main():
    games, results = np.load(sys.argv[1], allow_pickle=False), {}
    for case in sorted({name.split("/")[0] for name in games.files}):
        tables = {name.split("/")[1]: games[name] for name in games.files if name.startswith(f"{case}/")}
        options = json.loads(str(tables.pop("options")))
        results |= {f"{case}/{name}": np.asarray(array) for name, array in run(options, tables).items()}
    np.savez(sys.argv[2], **results)


if __name__ == "__main__":
    main()
