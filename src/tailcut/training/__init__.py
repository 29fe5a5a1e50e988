"""Training under frequency regularisation: recipes, the training loop, run folders.

Chenqiu Zhao, Guanfang Dong, Shupei Zhang, Zijie Tan and Anup Basu, "Frequency Regularization: Reducing
Information Redundancy in Convolutional Neural Networks", IEEE Access 11, 2023, doi
10.1109/ACCESS.2023.3320642.

| where in the paper     | function                                                                |
|------------------------|-------------------------------------------------------------------------|
| section III.B, beta_n  | `trainer.base.Trainer` steps a `TailTruncation` (the section `schedule`)|
| section IV.A, Table 1  | the recipes in `recipes/frequency-regularization/`                      |
| section IV.C, Dice     | `tailcut.evaluation.metrics.class_metrics.dice`                         |
| section IV.D, Table 4  | `trainer.gan.GanTrainer`; `tailcut.evaluation.metrics.fid.frechet_distance`, |
|                        | `tailcut.evaluation.metrics.elbo.negative_elbo`                         |

Known deviations: the paper cuts once per epoch with gamma = 0.01 until an end it does not state; a recipe may
also cut every few iterations and reach its target at a stated fraction of the run. The paper
does not say on what its settings were chosen; here figures to choose by come from images held out of the
training split, and the test split serves the final figure, of the packed file. A recipe without hold-out shows
the test split after each epoch, labels it so, and chooses nothing by it. The Fréchet distance of Table 4 is by the
features of our LeNet-5 for MNIST in place of Inception's: only ratios of rows can be compared.

Evaluation and prediction need no extra; recipes and the loop need the extra `train`.
"""
