"""SimCSE: simple contrastive learning of sentence embeddings (Gao et al., EMNLP 2021), without labels.

    sentence --twice through the encoder, other dropout--> h_1, h_2 --linear, tanh--> z_1, z_2
    loss = mean over i of  log sum_j e^(cos(z_1i, z_2j) / T) - cos(z_1i, z_2i) / T

Dropout is the only augmentation. The linear layer serves training alone. The baseline of methods of sentences.
"""

from nearfar.methods import CopyContrast, Paper, register


@register("simcse", family="text")
class SimCSE(CopyContrast):
    """A sentence finds itself under other dropout among the other sentences of the batch."""

    paper = Paper(
        "SimCSE: Simple Contrastive Learning of Sentence Embeddings",
        "EMNLP 2021",
        "A sentence encoded twice with different dropout is a positive pair; the other sentences are negatives.",
        arxiv="2104.08821",
        differs="duplicates in a batch are no negatives; a warm-up of a twentieth of the run (none in the paper); "
        "[CLS] and 32 tokens are options of the encoder (--text-pooling cls --text-length 32); validation does not "
        "choose the checkpoint that is kept; no masked-LM term, which the paper leaves out too",
    )
    baseline = 1
    preset_paper = {"views": {"name": "twice", "copies": 2}, "temperature": 0.05}
    paper_training = {"optimiser": "adamw", "lr": 3e-5, "weight_decay": 0.0, "schedule": "linear", "clip_norm": 1.0}
