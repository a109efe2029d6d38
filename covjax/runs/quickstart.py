"""The whole path on phantoms: raw files and data sets here, the rest as in any study."""

import time

from covjax import pipeline, runs
from covjax.phantom import raw_files
from covjax.runs import prepare, study
from covjax.workdir import claimed, duration


def run(config, workdir):
    """Each stage in a folder of its own under workdir, with the same code and the same config files as when it is run alone."""
    began = time.monotonic()
    raw, data_dir = workdir / 'phantoms', str(workdir / 'data')
    if not (raw / 'covid_ct' / 'PHANTOM.txt').is_file():
        print(f'drawing phantoms in {raw}', flush=True)
        raw_files.write_luna16(raw / 'luna16', config.seed, **config.phantom.luna16)
        raw_files.write_covid_ct(raw / 'covid_ct', config.seed, **config.phantom.covid_ct)
    for name in ('luna16', 'covid_ct'):
        stage = pipeline.with_keys(
            config[f'prepare_{name}'], source=str(raw / name), data_dir=data_dir
        )
        with claimed(stage, workdir / f'prepare_{name}') as folder:
            prepare.run(stage, folder)
    pipeline.follow(study.stages(config, workdir, data_dir), workdir, runs.find)
    print(f"""
Done in {duration(time.monotonic() - began)}, on phantoms: drawings, not patients, so no number here says anything about disease.
  phantoms            {raw}
  data sets           {data_dir}
  translations        {workdir / 'synthesize' / 'images' / 'input_and_synthetic.png'}
  training pictures   {workdir / 'cyclegan' / 'images'}
  report              {workdir / 'report' / 'report.html'}""")
