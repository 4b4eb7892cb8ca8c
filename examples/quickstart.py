"""Two lessons by the embedded model, from Python.

python examples/quickstart.py
"""

from pathlib import Path

from tutelage import generate, read_transcripts

HERE = Path(__file__).parent

summary = generate(
    {
        "run": "quickstart",
        "graph": "lesson",
        "briefs": [{"from": str(HERE / "briefs" / "mathematics.jsonl")}],
        "roles": {
            "tutor": {"max_tokens": 100},
            "student": {"max_tokens": 60},
            "critic": {"max_tokens": 300},
            "fact_checker": {"max_tokens": 300},
        },
        "limits": {"messages": 4, "revisions": 1},
        "target": {"dialogues": 2},
    },
    out="runs/quickstart",
    progress=True,
)
print(summary)

for transcript in read_transcripts(summary.folder):
    print(f"\n{transcript.brief.question}  ({transcript.outcome.reason})")
    for turn in transcript.turns:
        print(f"  {turn.role}: {turn.text}")
        for attempt in turn.attempts:
            if attempt.status == "rejected":
                print(f"    sent back: {attempt.text}")
