# `make demo` and `make test` do all the set-up themselves; nothing is done twice.
PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/.setup
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Where the networks of `make zoo` are installed.
export ZOO := $(abspath .venv/zoo)

# Real data and pretrained weights for the tests and benchmarks; set them to where yours are.
export TRIMTAB_DATA ?= $(abspath ../shared/data)
export TRIMTAB_WEIGHTS ?= $(abspath ../shared/weights)

.PHONY: demo test zoo bench nncodec pages clean

demo: $(SETUP)-demo
	$(BIN)/trimtab compress digits --drop 0.01 --size 10%

test: $(SETUP)-dev $(SETUP)-zoo
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	$(BIN)/pytest -n 2 --dist loadgroup

# Every architecture: an hour on two cores.
zoo: $(SETUP)-dev $(SETUP)-zoo
	mkdir -p benchmarks/results
	status=0; for claim in coverage random_networks growth; do \
		$(BIN)/python benchmarks/$$claim.py --json benchmarks/results/$$claim.json || status=1; done; exit $$status

# What is claimed about compressing: many hours on two cores, most of them for long trainings.
bench: $(SETUP)-dev $(SETUP)-zoo nncodec
	mkdir -p benchmarks/results
	status=0; for claim in int8_baseline sparsity quantize joint storage; do \
		$(BIN)/python benchmarks/$$claim.py --json benchmarks/results/$$claim.json || status=1; done; exit $$status

# NNCodec, which `benchmarks/storage.py` compares with, in an environment of its own: it wants an older NumPy. Its wheel
# asks for a torchvision that would bring another torch.
nncodec: .venv/nncodec/.setup

.venv/nncodec/.setup:
	$(PYTHON) -m venv .venv/nncodec
	.venv/nncodec/bin/pip install --quiet "numpy<2" torch==2.13.0 pybind11 setuptools wheel pandas scikit-learn tqdm h5py \
		"opencv-python-headless<4.12" ptflops torchmetrics pillow click
	.venv/nncodec/bin/pip install --quiet --no-deps torchvision
	.venv/nncodec/bin/pip install --quiet --no-deps --no-build-isolation nncodec==2.1.3
	touch $@

# The demo's report in headless Chromium (Debian: apt install chromium), through Playwright, with axe-core from npm.
pages: .venv/pages/.setup demo
	.venv/pages/bin/python benchmarks/pages.py runs/digits/report.html --shots runs/pages \
		--json benchmarks/results/pages.json

.venv/pages/.setup:
	$(PYTHON) -m venv .venv/pages
	.venv/pages/bin/pip install --quiet playwright==1.65.2
	mkdir -p .venv/pages/axe && cd .venv/pages/axe && npm pack --silent axe-core@4.14.1 && tar xzf axe-core-4.14.1.tgz
	touch $@

clean:
	rm -rf .venv runs

# Other people's networks, in a folder of their own: torchvision is not whole beside a CPU build of torch, and what
# finds it installed would import it.
$(SETUP)-zoo: $(SETUP)-dev
	$(PIP) --upgrade --target $(ZOO) transformers pillow
	$(PIP) --upgrade --target $(ZOO) --no-deps torchvision torch-pruning
	touch $@

$(SETUP)-%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --editable '.[$*]'
	touch $@
