"""Average checkpoints in ten lines: `python average_in_python.py OUTPUT.safetensors CHECKPOINT…`.

CHECKPOINT is a file of any format, a folder, a run directory or a quoted glob. torch is imported
only if a file is a pickle.
"""

import sys

from swa_tools import average_checkpoints, find_checkpoints

output, *checkpoints = sys.argv[1:]
result = average_checkpoints(find_checkpoints(checkpoints), output)

average = result.metadata.average
for source in average.sources if average else ():
    print(f"{source.weight:.5f}  {source.name}  {source.digest}")
print(f"{output}: {result.n_averaged} tensors averaged, {result.n_copied} copied, {result.digest}")
if result.metadata.bn.state == "stale":
    print(f"next: swa-tools update-bn {output} --data DIR -o FILE")
