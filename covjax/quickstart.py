"""The whole path on phantoms: raw files, data sets, CycleGAN, synthetic data set, classifier, evaluation, report."""
import time

from covjax import evaluate, phantom, prepare, report, synthesize, train
from covjax.log import duration
from covjax.workdir import claimed

STAGES = {'prepare': prepare.run, 'train': train.run, 'synthesize': synthesize.run, 'evaluate': evaluate.run, 'report': report.run}


def run(config, workdir):
    """Each stage in a folder of its own under workdir, with the same code and the same config files as when it is run alone."""
    began = time.monotonic()
    raw, data_dir = workdir / 'phantoms', str(workdir / 'data')
    if not (raw / 'covid_ct' / 'PHANTOM.txt').is_file():
        print(f'drawing phantoms in {raw}', flush=True)
        phantom.write_luna16(raw / 'luna16', config.seed, **config.phantom.luna16)
        phantom.write_covid_ct(raw / 'covid_ct', config.seed, **config.phantom.covid_ct)
    wiring = {
        'prepare_luna16': {'source': str(raw / 'luna16'), 'data_dir': data_dir},
        'prepare_covid_ct': {'source': str(raw / 'covid_ct'), 'data_dir': data_dir},
        'cyclegan': {'data_dir': data_dir},
        'synthesize': {'generator': str(workdir / 'cyclegan')},
        'classifier': {'data_dir': f'{data_dir},{workdir / "synthesize" / "data"}'},
        'evaluate': {'classifier': str(workdir / 'classifier')},
        'report': {'evaluations': str(workdir / 'evaluate'), 'synthetic': str(workdir / 'synthesize')},
    }
    for name, upstream in wiring.items():
        stage = config[name].copy_and_resolve_references()
        stage.update(upstream)
        print(f'\n== {name}, {duration(time.monotonic() - began)} after the start', flush=True)
        with claimed(stage, workdir / name) as folder:
            STAGES[stage.run](stage, folder)
    print(f'''
Done in {duration(time.monotonic() - began)}, on phantoms: drawings, not patients, so no number here says anything about disease.
  phantoms            {raw}
  data sets           {data_dir}
  translations        {workdir / 'synthesize' / 'images' / 'input_and_synthetic.png'}
  training pictures   {workdir / 'cyclegan' / 'images'}
  report              {workdir / 'report' / 'report.html'}''')
