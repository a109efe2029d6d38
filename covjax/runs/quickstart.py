"""The whole path on phantoms: raw files and data sets here, the rest as in any study."""

import time

from covjax import pipeline, runs
from covjax.phantom import raw_files
from covjax.runs import prepare, study
from covjax.workdir import claimed, duration

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
    began = time.monotonic()
    phantoms, data_dir = workdir / 'phantoms', str(workdir / 'data')
    if not (phantoms / 'covid_ct' / 'PHANTOM.txt').is_file():
        print(f'drawing phantoms in {phantoms}', flush=True)
        raw_files.write_luna16(phantoms / 'luna16', config.seed, **config.phantom.luna16)
        raw_files.write_covid_ct(phantoms / 'covid_ct', config.seed, **config.phantom.covid_ct)
    for name in ('luna16', 'covid_ct'):
        source = str(phantoms / name)
        stage = pipeline.with_keys(config[f'prepare_{name}'], source=source, data_dir=data_dir)
        with claimed(stage, workdir / f'prepare_{name}') as folder:
            prepare.run(stage, folder)
    pipeline.follow(study.stages(config, workdir, data_dir), workdir, runs.find)
    took = duration(time.monotonic() - began)
    print(SUMMARY.format(took=took, phantoms=phantoms, data_dir=data_dir, workdir=workdir))
