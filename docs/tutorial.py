# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Trace, read, test, train, publish
#
# The whole cycle on [Atlas](atlas.md), the bundled model, offline and on a CPU: trace a prompt,
# read the graph, test it by intervention, train a dictionary, and prepare it for publishing. It
# takes a minute or two. Each step links to the page that has the details. The words are in the
# [glossary](glossary.md).

# %% [markdown]
# ## Trace
#
# A graph needs three things: a model, a *dictionary* (the features that stand in for its MLPs),
# and a prompt. "The capital of the state containing Dallas" needs two steps, and Atlas was never
# trained on this combination.

# %%
import tl_attribution as tla

model = tla.load_model("atlas")
dictionary = tla.load_dictionary("atlas")
prompt = "Fact: the capital of the state containing Dallas is"

graph = tla.attribute(model, prompt, dictionary)
graph

# %% [markdown]
# Before reading a graph, check it. The *residual* compares every node's incoming edges with the
# pre-activation measured in the model: about 1e-7 here, and a graph above 1e-3 should not be
# trusted. The *replacement score* says how much of the influence on the answer comes through
# features rather than through reconstruction errors ([all the numbers](graph.md)).

# %%
scores = graph.scores()
print(f"residual      {graph.residual():.0e}")
print(f"replacement   {scores.replacement:.3f}")
print(f"completeness  {scores.completeness:.3f}")
for answer in graph.metadata.answers[:3]:
    print(f"{answer.probability:7.2%}  {answer.token!r}")

# %% [markdown]
# ## Read
#
# The whole graph has thousands of edges. Pruning keeps the nodes that hold 80% of the influence,
# and of their edges those that hold 98%.

# %%
small = graph.prune(node_threshold=0.8, edge_threshold=0.98)
small.to_html("dallas.html")  # the picture below, with tables; in a notebook, `small` shows it
small

# %% [markdown]
# ![The pruned graph: tokens at the bottom, layers above them, the answer on top](dallas.svg)
#
# Tokens are at the bottom, layers above them, and the answer at the top; an edge is as wide as
# the influence that it carries. Two groups of features stand out: those at " Dallas", and those
# at " capital". The strongest paths from the city to the answer, with their *effect* in logits:

# %%
austin = next(node for node in graph.nodes if node.kind == "logit")
dallas = next(node for node in graph.nodes if (node.kind, node.label) == ("token", " Dallas"))
for path in graph.paths(dallas, austin, n=3):
    steps = [graph.nodes[row] for row in path.nodes]
    print(f"{path.effect:+.2f} logits  ", " → ".join(n.label or f"feature {n.id}" for n in steps))

# %% [markdown]
# [Reading a circuit](reading.md) goes on from here: what a node depends on, supernodes, and two
# prompts compared.

# %% [markdown]
# ## Test
#
# A graph is a hypothesis about the model. To test it, change features and look at whether the
# model agrees. First, ablate the ten most influential features at the city:

# %%
at_the_city = [n for n in graph.nodes if n.kind == "feature" and n.position == dallas.position]
strongest = sorted(at_the_city, key=lambda n: -n.influence)[:10]
run = tla.intervene(model, graph, dictionary, tla.supernode(strongest, 0.0))


def probability(logits):
    return float(logits[-1].softmax(-1)[austin.index])


before, after = probability(run.original_logits), probability(run.logits)
print(f"P(' Austin') {before:.3f} → {after:.3f}")

# %% [markdown]
# Then the systematic version: does influence in the graph predict the effect of an ablation,
# feature by feature? `tla.validate` ablates features, compares, and says so in words ([what it
# measures](interventions.md)).

# %%
validation = tla.validate(model, graph, dictionary, max_features=20)
print("\n".join(validation.verdict))

# %% [markdown]
# ## Train
#
# Atlas comes with a dictionary. Your model may not have one, and then you train it. This run is
# small so that it takes seconds; it shows the steps, not a good dictionary
# ([training](training.md)).

# %%
from tl_attribution.atlas import corpus

text = corpus.sentences(20_000)
config = tla.TrainingConfig(
    n_features=128,
    k=8,
    tokens=100_000,
    batch_size=1024,
    buffer_size=8192,
    learning_rate=2e-3,
    concat=False,
)
trained = tla.train(model, text, config, out="run")

# %% [markdown]
# How good is it? `tla.evaluate` measures the reconstruction and the model with the dictionary in
# place of its MLPs; the scores of a graph say how far it carries this prompt. Compare with the
# bundled dictionary, which was trained longer and has three times as many features.

# %%
for name, d in (("bundled", dictionary), ("trained here", trained)):
    evaluation = tla.evaluate(model, d, text[:500], concat=False)
    replacement = tla.attribute(model, prompt, d).scores().replacement
    print(
        f"{name:12}  squared error {evaluation.nmse:.1%}  active features {evaluation.l0:.1f}"
        f"  replacement score {replacement:.2f}"
    )

evaluation.to_json("run/evaluation.json")

# %% [markdown]
# The residual of a graph through the weak dictionary is as small as before: the graph is right
# about the frozen model, but more of the answer comes out of error nodes. That is what the
# replacement score is for.

# %%
print(f"residual {tla.attribute(model, prompt, trained).residual():.0e}")

# %% [markdown]
# ## Publish
#
# One command makes a repository on the Hugging Face Hub with the weights, the evaluation and a
# model card. With `--dry-run` it shows the card and the files that it would send, and sends
# nothing ([names and the Hub](hub.md)). The files:

# %%
import subprocess

command = "tl-attribution publish run me/atlas-clt --license mit --dry-run"
shown = subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout
print(shown.partition("\n\n")[0])

# %% [markdown]
# Without `--dry-run`, and after `hf auth login`, it is published, and anybody can trace with it:
#
# ```sh
# tl-attribution trace "Fact: the capital of Texas is" --model atlas --dictionary me/atlas-clt
# ```
#
# Next: [the same with your own model](own_model.md), or [the case studies](biology/README.md),
# which test such graphs over whole tables of facts.
