# Everything is set up in .venv; nothing has to be installed by hand before.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint docs reproduce clean

demo: $(VENV)/.demo
	$(BIN)/hyperasr demo

test: $(VENV)/.test lint docs
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.test
	$(BIN)/mkdocs build --strict --quiet

# Every result file, the notebooks, the tables of the docs and the report, from models under runs/: what
# is older than its program, its configuration, or a file or model that this names. One after the
# other, because some measure time. `make -n reproduce` says what is left.
# Those of fit_word_probability fit, and measure nothing.
CONFIGS := $(filter-out eval/configs/fit_%,$(wildcard eval/configs/*.yaml))
RESULTS := $(CONFIGS:eval/configs/%.yaml=results/%.json) results/writing.json \
	results/adapted_speed.json results/error_against_time.json
PEERS := tiny.en backbone_trimmed_stop, tiny.en faster_whisper_int8, tiny.en whisper_cpp, \
	base backbone, base backbone_trimmed_stop, base faster_whisper_int8
named = $(wildcard $(shell grep -oE '(runs|train|hyperasr/assets)/[^], }]+' $(1)))
evaluate = $(BIN)/python -m $(subst /,.,$(basename $<)) --config $(filter eval/configs/%,$^)

reproduce: $(RESULTS) notebooks/04_uncertainty.ipynb results/report.html
	$(BIN)/python -m eval.docs

.NOTPARALLEL:
.SECONDEXPANSION:

results/%_sweep.json: eval/sweep.py eval/configs/%_sweep.yaml \
		$$(call named,eval/configs/$$*_sweep.yaml) | $(VENV)/.test
	$(evaluate)

results/beam.json results/default_model.json results/unadapted.json results/typical.json \
		results/zero_shot_base.json: \
		results/%.json: eval/zero_shot.py eval/configs/%.yaml \
		$$(call named,eval/configs/$$*.yaml) | $(VENV)/.test
	$(evaluate)

results/individual.json: results/%.json: eval/comparison.py eval/configs/%.yaml \
		$$(call named,eval/configs/$$*.yaml) | $(VENV)/.test
	$(evaluate)

results/ceiling.json: results/%.json: eval/development.py eval/configs/%.yaml \
		$$(call named,eval/configs/$$*.yaml) | $(VENV)/.test
	$(evaluate)

results/word_confidence.json: results/%.json: eval/calibration.py eval/configs/%.yaml \
		$$(call named,eval/configs/$$*.yaml) | $(VENV)/.test
	$(evaluate)

results/%.json: eval/%.py eval/configs/%.yaml $$(call named,eval/configs/$$*.yaml) | $(VENV)/.test
	$(evaluate)

results/%.json: eval/benchmarks/%.py eval/configs/%.yaml \
		$$(call named,eval/configs/$$*.yaml) | $(VENV)/.test
	$(evaluate)

results/writing.json: eval/writing.py eval/configs/typical.yaml \
		$$(call named,eval/configs/typical.yaml)
results/adapted_speed.json results/error_against_time.json: eval/benchmarks/adapted_speed.py \
		eval/configs/default_model.yaml $$(call named,eval/configs/default_model.yaml)
results/error_against_time.json: MORE = --peers "[$(PEERS)]"
results/writing.json results/adapted_speed.json results/error_against_time.json: | $(VENV)/.test
	$(BIN)/python -m $(subst /,.,$(basename $(filter %.py,$^))) --config $(filter eval/configs/%,$^) \
		--out $@ $(MORE)

notebooks/04_uncertainty.ipynb: eval/notebooks.py results/leave_one_cohort_out.json | $(VENV)/.test
	$(BIN)/python -m eval.notebooks

results/report.html: eval/report.py $(RESULTS) | $(VENV)/.test
	$(BIN)/python -m eval.report --results results --out $@

# torch first: the constraint keeps pip from trading a CPU build for another one.
$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -r constraints.txt
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache
