def run(config, workdir): pass
