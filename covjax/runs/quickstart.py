"""The whole pipeline on phantoms: raw files and data sets here, the rest as in any study.

Two classifiers of one kind learn, one from (phantom) real pictures, one from translated slices. The
audit and the quality of the translations say why one of them sees disease and the other does not.
"""

import time

from covjax import InputError, pipeline, runs
from covjax.data import specs
from covjax.phantom import raw_files
from covjax.pipeline import Stage, with_keys
from covjax.runs import prepare, study
from covjax.workdir import claimed, duration

DATA_SETS = ('covid_ct', 'synthetic_covid_ct')
SUMMARY = """
Done in {took}, on phantoms: drawings, not patients, so no number here says anything about disease.
  phantoms            {phantoms}
  data sets           {data_dir}
  translations        {workdir}/synthesize/images/input_and_synthetic.png
  training pictures   {workdir}/cyclegan/images
  report              {workdir}/report/report.html"""


def run(config, workdir):
    """Draws phantoms, prepares their data sets and makes every stage of a study.

    Each stage has a folder of its own under workdir, and the same code and config as when it is run
    alone.
    """
    check(config)
    began = time.monotonic()
    phantoms, data_dir = workdir / 'phantoms', str(workdir / 'data')
    if not (phantoms / 'covid_ct' / 'PHANTOM.txt').is_file():
        print(f'drawing phantoms in {phantoms}', flush=True)
        raw_files.write_luna16(phantoms / 'luna16', config.seed, **config.phantom.luna16)
        raw_files.write_covid_ct(phantoms / 'covid_ct', config.seed, **config.phantom.covid_ct)
    for name in ('luna16', 'covid_ct'):
        source = str(phantoms / name)
        stage = with_keys(config[f'prepare_{name}'], source=source, data_dir=data_dir)
        with claimed(stage, workdir / f'prepare_{name}') as folder:
            prepare.run(stage, folder)
    pipeline.follow(stages(config, workdir, data_dir), workdir, runs.find)
    took = duration(time.monotonic() - began)
    print(SUMMARY.format(took=took, phantoms=phantoms, data_dir=data_dir, workdir=workdir))


def check(config):
    """Refuses a data set that the quick start does not make, before anything is drawn."""
    for name, chosen in config.classifiers.items():
        for key in ('train', 'tests'):
            for dataset, _, _ in specs.parse(chosen[key].replace(',', '+')):
                if dataset not in DATA_SETS:
                    raise InputError(
                        f'config.classifiers.{name}.{key}={chosen[key]}: {dataset} is no data set '
                        f'of the quick start; choose among {", ".join(DATA_SETS)}'
                    )


def stages(config, workdir, data_dir):
    """Yields the Stages that follow the preparation of the data sets.

    Args:
        config: of configs/quickstart.py: config.classifiers says what each classifier learns from
            and how it is tested, the other keys are the configs of the stages.
        workdir: pathlib.Path of the quick start.
        data_dir: where the phantom data sets lie; the synthetic one lies in the stage `synthesize`.
    """
    both, synthetic = study.with_synthetic(workdir, data_dir), str(study.synthetic_dir(workdir))
    yield from study.translation(config, workdir, data_dir)
    for name, chosen in config.classifiers.items():
        yield study.training(name, with_keys(config.classifier, train=chosen.train, data_dir=both))
    judged = {'evaluate': [], 'audit': []}
    for stage, folders in judged.items():
        for name, chosen in config.classifiers.items():
            keys = {'tests': chosen.tests, 'names': chosen.names, 'data_dir': both}
            yield study.judging(workdir, stage, name, with_keys(config[stage], **keys))
            folders.append(f'{stage}/{name}')
    quality = with_keys(config.quality, synthetic=synthetic, data_dir=data_dir)
    yield Stage('quality', quality, study.TRANSLATION)
    paths = lambda folders: ','.join(str(workdir / folder) for folder in folders)
    report = with_keys(
        config.report,
        evaluations=paths(judged['evaluate']),
        audits=paths(judged['audit']),
        quality=str(workdir / 'quality'),
        synthetic=synthetic,
    )
    made_from = (*study.TRANSLATION, *judged['evaluate'], *judged['audit'], 'quality')
    yield Stage('report', report, made_from)
