"""Reads the transcripts of a run, and makes training files of them.

python examples/read_and_export.py runs/demo out/
"""

import sys
from collections import Counter
from pathlib import Path

from tutelage import read_transcripts
from tutelage.exports.export import export
from tutelage.exports.request import Request
from tutelage.transcripts.messages import Prompts

run, out = Path(sys.argv[1]), Path(sys.argv[2])

issues: Counter[str] = Counter()
for transcript in read_transcripts(run):
    for turn in transcript.turns:
        for attempt in turn.attempts:
            for review in attempt.reviews:
                issues.update(f"{review.role}: {issue.dimension}" for issue in review.issues)
for issue, count in issues.most_common():
    print(f"{count:4} {issue}")

# What the tutor was shown when it spoke first, byte for byte.
with Prompts(run) as prompts:
    first = next(iter(read_transcripts(run))).turns[0].attempts[0]
    for message in prompts.messages(first.call.prompt_sha256):
        print(f"[{message['role']}] {message['content'][:200]}")

print(export(run, Request(format="sft", role="tutor", files="jsonl"), out=out / "tutor-sft"))
print(export(run, Request(format="sft", role="student", files="jsonl"), out=out / "student-sft"))
print(export(run, Request(format="dpo", role="tutor", files="jsonl"), out=out / "tutor-dpo"))
