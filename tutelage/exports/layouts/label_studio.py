"""Label Studio: dialogues as tasks that people judge turn by turn, in the community edition.

`data/*.json` is what the import takes, `labels.xml` the labelling config (its `Paragraphs` tag; the `Chat` tag is for
paying customers). A task says whose dialogue it is, so that what people decide is found again, however often it is read:

    {"data": {"dialogue": "<the transcript's id>", "run": "fractions", "brief": "halves", "title": "What is 1/2 + 1/3?",
              "turns": [{"turn": 0, "role": "tutor", "text": "..."}, {"turn": 1, "role": "student", "text": "..."}]},
     "predictions": [{"model_version": "judge:critic", "result": [...]}]}

`predictions` are decisions that were made before, one entry for each author, as Label Studio shows them to begin with.
What Label Studio exports ("JSON") is the same tasks with `annotations`, whose `result` holds:

    {"id": "r1", "from_name": "turn_decision", "to_name": "dialogue", "type": "paragraphlabels",
     "value": {"start": "0", "end": "0", "startOffset": 0, "endOffset": 12, "paragraphlabels": ["drop"]}}
    {"id": "r1", "from_name": "edit", "to_name": "dialogue", "type": "textarea", "value": {"text": ["Better words."]}}
    {"id": "r1", "from_name": "reason", "to_name": "dialogue", "type": "textarea", "value": {"text": ["It tells."]}}
    {"id": "d1", "from_name": "dialogue_decision", "to_name": "dialogue", "type": "choices", "value": {"choices": ["keep"]}}
    {"id": "d2", "from_name": "dialogue_reason", "to_name": "dialogue", "type": "textarea", "value": {"text": ["Fine."]}}

`start` and `end` are places in `turns`, so the turn's index is `turns[int(start)]["turn"]`; a region over several
paragraphs is about each of them. What belongs to one region has one `id`. The labels of a turn are `keep`, `drop` and
`edit` (with the new words under `edit`), the choices for the dialogue `keep` and `drop`: those of `decisions.jsonl`.
https://labelstud.io/guide/tasks, https://labelstud.io/tags/paragraphs
"""
