"""The version of each kind of stage and of each network. Raise it when a change of code changes results: old results
then count no more.

`tests/trainables/test_versions.py` ties each version to a digest of the source it depends on, so that nobody forgets.
"""

VERSIONS: dict[str, int] = {
    "pretrain/simclr": 1,
    "pretrain/reconstruction": 1,
    "pretrain/conrec": 1,
    "finetune": 1,
    "network/conrec-unet": 1,
}
