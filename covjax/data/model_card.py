"""The model card of an exported network: README.md beside its files.

Whoever is given the folder alone learns from it what goes in and comes out, what the network
learned from, and which images must therefore not test it. The head is what Hugging Face reads.
"""

HEAD = """---
library_name: covjax
license: other
tags:
- medical-imaging
- computed-tomography
- not-for-diagnosis
---
"""
USE = 'Research on methods. Not for diagnosis, and not tested on the patients of any hospital.'
LICENCES = 'The licences of its training images apply to what may be done with it.'


def text(title, what, run, takes, gives, files, limit):
    """The text of README.md, Markdown.

    Args:
        title: of the page.
        what: a sentence on what the network does.
        run: trained.Trained.
        takes, gives: sentences on what goes in and comes out.
        files: {name of a file: how it is read, as Python}.
        limit: a sentence on what must not be read into what comes out.
    """
    reading = [f'`{name}`:\n\n```python\n{code}\n```' for name, code in files.items()]
    parts = {
        title: [what, f'**{USE}**'],
        'In and out': [takes, gives],
        'What it learned from': [
            f'Step {run.step} ({run.checkpoint} checkpoint), config {run.config_hash}.',
            *_learned(run),
        ],
        'To read it': reading,
        'Limits': [f'- {limit}\n- {LICENCES}'],
    }
    sections = [
        '\n\n'.join([f'{"#" if name == title else "##"} {name}', *blocks])
        for name, blocks in parts.items()
    ]
    return HEAD + '\n'.join(['', '\n\n'.join(sections), ''])


def _learned(run):
    """What a run learned from, paragraphs of Markdown."""
    if not (run.folder / 'lineage.json').is_file():
        return ['What it learned from was not kept, so nothing can be ruled out as a test.']
    table = ['| role | data set | images | patients or series | through |', '|---|---|---|---|---|']
    for record in run.lineage:
        groups = {image[1] for image in record['images']}
        facts = record['role'], record['dataset'], len(record['images']), len(groups)
        table.append(f'| {" | ".join(map(str, facts))} | {record["through"] or "itself"} |')
    text = 'None of these images, nor others of their patients or series, may test it:'
    return [text, '\n'.join(table)]
