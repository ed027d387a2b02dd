# The verbs a person types. `make help` lists them.
#
# Variables:
#   DATA=PATH         folder of images, manifest or archive       [data/PetImages, else what make data fetches]
#   BACKBONE=FILE     backbone, an ONNX file                      [data/backbones/resnet50.onnx]
#   STORE=DIR         folder of feature stores                    [data/features]
#   EP=auto|cpu|cuda|openvino  execution provider                 [auto]
#   PRECISION=fp32|bf16|tf32   arithmetic: bf16 is OpenVINO's, tf32 CUDA's  [fp32]
#   FEATURES_ARGS=..  more flags for `extractor features`, in `make profile`, too
#   DATA_ARGS=..      more flags for `extractor fetch`, say --keep-all
#   HEAD_ARGS=..      more flags for `head-trainer train`
#   BASELINE_ARGS=..  more flags for `head-trainer baseline`
#   REPORT_ARGS=..    runs and flags for `head-trainer report`    [the newest head and baseline]
#   BACKBONE_ARGS=..  flags for the export                        [--weights imagenet]
#   PARITY_ARGS=..    flags for scripts/parity.py, say --weights imagenet
#   PARTS=N           parts of features-slurm; more variables: scripts/slurm/submit --help  [8]
#   SUBMIT_ARGS=..    flags for scripts/slurm/submit, say --dry-run or --array 2
#   WHAT=NAME         which benchmark                             [features]
#   BENCH_ARGS=..     flags for scripts/bench_features.py, bench_head.py or bench_baseline.py, say --peers keras; for the server of WHAT=serve
#
# A DATA or BACKBONE that is given is used or refused. Where none is given and none lies at the
# usual place, a synthetic sample set and an untrained ResNet50 stand in, and everything that comes
# of them goes to data/demo, so that it never mixes with real results.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.SUFFIXES:

CARGO ?= cargo
PYTHON ?= python3
EP ?= auto
PRECISION ?= fp32
BACKBONE_ARGS ?= --weights imagenet

extractor := target/release/extractor
head_trainer := target/release/head-trainer
demo := data/demo

# ---- what DATA and BACKBONE mean when they are not given --------------------------------------

sample_marker := $(demo)/sample/.headstart-sample.toml
untrained := $(demo)/resnet50-untrained.onnx
stand_ins :=
stand_in_files :=

fetched := data/kagglecatsanddogs_5340.zip
usual_images := $(if $(DEMO),,$(firstword $(patsubst %/.,%,$(wildcard data/PetImages/.)) $(wildcard $(fetched))))

ifneq ($(strip $(DATA)),)
  images := $(DATA)
else ifeq ($(usual_images),)
  images := $(demo)/sample
  stand_ins += the synthetic sample set
  stand_in_files += $(sample_marker)
else
  images := $(usual_images)
endif

ifneq ($(strip $(BACKBONE)),)
  model := $(BACKBONE)
else ifneq ($(DEMO)$(wildcard data/backbones/resnet50.onnx),data/backbones/resnet50.onnx)
  model := $(untrained)
  stand_ins += $(if $(stand_ins),and) an untrained ResNet50
  stand_in_files += $(untrained)
else
  model := data/backbones/resnet50.onnx
endif

results := $(if $(stand_ins),$(demo),data)
STORE ?= $(results)/features
# The index of a stand-in's results lies with them, under a name that follows from the folder's.
index_file := $(if $(stand_ins),$(demo)/indexes/$(if $(findstring sample set,$(stand_ins)),sample,$(shell printf %s '$(images)' | cksum | cut -d' ' -f1)).arrow)
index_flag := $(if $(index_file),--index "$(index_file)")

note = note: using $(strip $(stand_ins)), since none was given or found in data/ (hint: make data backbone; $(if $(DATA),BACKBONE=FILE,$(if $(BACKBONE),DATA=DIR,DATA=DIR BACKBONE=FILE))); results go to $(demo)

# Exit 3 means: done, some images skipped.
skips_are_fine := || { code=$$?; [ $$code -eq 3 ] || exit $$code; }

flavour := $(firstword $(filter cuda openvino,$(EP)) $(patsubst bf16,openvino,$(patsubst tf32,cuda,$(filter bf16 tf32,$(PRECISION)))) cpu)
precision_flag := $(patsubst %,--precision %,$(filter-out fp32,$(PRECISION)))
fetch_runtime := $(extractor) runtime fetch --flavour $(flavour) > /dev/null

# ---- the pipeline ------------------------------------------------------------------------------

.PHONY: features
features: check build $(stand_in_files) ## compute the features that the store lacks (stage one)
	@$(if $(stand_ins),echo "$(note)" >&2)
	@$(fetch_runtime) || true # a run that finds everything cached needs none
	@$(extractor) features "$(images)" --backbone "$(model)" --store "$(STORE)" $(index_flag) --ep $(EP) $(precision_flag) $(FEATURES_ARGS) $(skips_are_fine)

.PHONY: train-head
train-head: check build ## train a head on cached features (stage two)
	@$(if $(stand_ins),echo "$(note)" >&2)
	@$(head_trainer) train "$(images)" --backbone "$(model)" --store "$(STORE)" $(precision_flag) $(index_flag) --runs "$(results)/runs" $(HEAD_ARGS) $(skips_are_fine)

slurm_submit = DATA="$(images)" BACKBONE="$(model)" STORE="$(STORE)" INDEX="$(index_file)" RESULTS="$(results)" EP="$(EP)" \
  FEATURES_ARGS='$(strip $(precision_flag) $(FEATURES_ARGS))' HEAD_ARGS='$(strip $(precision_flag) $(HEAD_ARGS))' scripts/slurm/submit

.PHONY: features-slurm
features-slurm: check build $(stand_in_files) ## the same as an array job of PARTS parts on a Slurm cluster
	@$(if $(stand_ins),echo "$(note)" >&2)
	@$(slurm_submit) features $(SUBMIT_ARGS)

.PHONY: train-head-slurm
train-head-slurm: check build ## the same as a job after the features that were submitted
	@$(if $(stand_ins),echo "$(note)" >&2)
	@$(slurm_submit) train-head $(SUBMIT_ARGS)

.PHONY: baseline
baseline: check build $(filter $(sample_marker),$(stand_in_files)) ## train the small CNN end to end on the same images and split
	@$(if $(stand_ins),echo "$(note)" >&2)
	@$(head_trainer) baseline "$(images)" --store "$(results)/pixels" $(index_flag) --checkpoints "$(results)/checkpoints" --runs "$(results)/runs" $(BASELINE_ARGS) $(skips_are_fine)

.PHONY: report
report: build ## one HTML page that compares runs
	@$(head_trainer) report --data-dir "$(results)" $(REPORT_ARGS)

.PHONY: compare
compare: features train-head baseline report ## features (cached), head, baseline, and the report of both

.PHONY: check
check:
	@[ -z "$(DATA)" ] || [ -e "$(DATA)" ] || case "$(DATA)" in *://*) ;; *) false ;; esac || { echo "error: DATA=$(DATA) does not exist (hint: name a folder with one sub-folder of images a class, a manifest or an archive)" >&2; exit 1; }
	@[ -z "$(BACKBONE)" ] || [ -f "$(BACKBONE)" ] || { echo "error: BACKBONE=$(BACKBONE) is not a file (hint: make backbone exports the ImageNet ResNet50)" >&2; exit 1; }

.PHONY: demo
demo: ## everything on a synthetic sample set and an untrained ResNet50
	@$(MAKE) --no-print-directory compare DEMO=1 DATA= BACKBONE=

.PHONY: data
data: build ## download Microsoft's cats vs dogs (825 MB) into data/, once
	@$(extractor) fetch cats-vs-dogs --out $(fetched) $(DATA_ARGS)

.PHONY: backbone
backbone: ## export Keras's ImageNet ResNet50 to data/backbones/resnet50.onnx (downloads TensorFlow)
	$(PYTHON) scripts/export_resnet50.py $(BACKBONE_ARGS)

.PHONY: parity
parity: runtime ## our features beside Keras's, for the same pixels and from JPEG files (downloads TensorFlow)
	$(PYTHON) scripts/parity.py $(PARITY_ARGS)

.PHONY: runtime
runtime: build ## fetch ONNX Runtime's shared library, once
	@$(fetch_runtime)

$(sample_marker): | build
	@$(extractor) sample $(demo)/sample > /dev/null

$(untrained): | build
	@$(extractor) backbone seed --out $@ > /dev/null

# ---- development -------------------------------------------------------------------------------

.PHONY: build
build: ## build both binaries
	@$(CARGO) build --release --locked

.PHONY: test
test: runtime ## the everyday tests: Rust and ONNX Runtime only
	$(CARGO) test --release --locked

.PHONY: test-all
test-all: test ## all tests: adds the slow ones and the Python peers
	$(CARGO) test --release --locked --test accuracy -- --ignored
	@$(extractor) runtime fetch --flavour openvino > /dev/null || [ "$$(uname -sm)" != "Linux x86_64" ]
	$(CARGO) test --release --locked --lib --test openvino -- --ignored openvino
	$(PYTHON) scripts/test_export_resnet50.py
	$(PYTHON) scripts/test_import_weights.py
	$(PYTHON) scripts/test_read_store.py
	$(PYTHON) scripts/test_inputs.py
	$(PYTHON) scripts/test_events.py
	$(PYTHON) scripts/test_report.py
	$(PYTHON) scripts/test_bench_features.py
	$(PYTHON) scripts/test_export_model.py
	$(PYTHON) scripts/test_web.py
	$(PYTHON) scripts/test_parity.py
	$(PYTHON) scripts/test_keras.py
	$(PYTHON) scripts/scale_model.py --check --exact-only
	$(PYTHON) scripts/test_remote.py
	$(PYTHON) scripts/test_slurm.py
	$(PYTHON) scripts/test_kubernetes.py
	$(PYTHON) scripts/test_quantize.py
	$(PYTHON) scripts/test_readme.py

.PHONY: profile
profile: check build $(stand_in_files) ## a stage-by-stage time table of computing the features anew, into a store that is thrown away
	@$(if $(stand_ins),echo "$(note)" >&2)
	@$(fetch_runtime)
	@mkdir -p "$(results)"; place=$$(mktemp -d "$(results)/profile.XXXXXX") || exit 1; trap 'rm -rf "$$place"' EXIT; trap 'exit 130' INT TERM; \
	  $(extractor) features "$(images)" --backbone "$(model)" --store "$$place/features" --index "$$place/index.arrow" --ep $(EP) --precision $(PRECISION) --timings $(FEATURES_ARGS) $(skips_are_fine)

# WHAT=features compares speeds, for which untrained weights do; for images the script looks itself.
WHAT ?= features
bench_needs := $(if $(filter features engine,$(WHAT)),check build $(filter $(untrained),$(stand_in_files)))

.PHONY: bench
bench: $(bench_needs) ## benchmarks: the features beside the raw engine, Keras, PyTorch and OpenVINO (BENCH_ARGS="--device cuda": on a GPU beside PyTorch); WHAT=engine what may lift the raw engine, WHAT=head the solvers beside other libraries, WHAT=baseline the CNN, WHAT=store writing, pooling and cached runs, WHAT=decode decoding alone, WHAT=audit an audit, WHAT=serve a server under load, WHAT=scale a million images
ifeq ($(WHAT),features)
	@$(fetch_runtime)
	$(PYTHON) scripts/bench_features.py --backbone "$(model)" $(if $(strip $(DATA)),--data "$(DATA)") $(BENCH_ARGS)
else ifeq ($(WHAT),engine)
	$(PYTHON) scripts/bench_engine.py --backbone "$(model)" $(BENCH_ARGS)
else ifeq ($(WHAT),head)
	$(PYTHON) scripts/bench_head.py $(BENCH_ARGS)
else ifeq ($(WHAT),baseline)
	$(PYTHON) scripts/bench_baseline.py $(BENCH_ARGS)
else ifeq ($(WHAT),store)
	$(CARGO) test --release --locked --test store_speed -- --ignored --nocapture
	$(CARGO) test --release --locked --test cached_speed -- --ignored --nocapture
else ifeq ($(WHAT),decode)
	$(CARGO) test --release --locked --test extraction -- --ignored --nocapture
else ifeq ($(WHAT),audit)
	$(CARGO) test --release --locked --test audit_speed -- --ignored --nocapture
else ifeq ($(WHAT),serve)
	BENCH_ARGS='$(BENCH_ARGS)' $(CARGO) test --release --locked --test serve_speed -- --ignored --nocapture
else ifeq ($(WHAT),scale)
	$(CARGO) test --release --locked --test scale -- --ignored --nocapture
else
	@echo "error: make bench knows WHAT=features, WHAT=engine, WHAT=head, WHAT=baseline, WHAT=store, WHAT=decode, WHAT=audit, WHAT=serve or WHAT=scale" >&2; exit 2
endif

.PHONY: lint
lint: ## formatting, clippy and documentation, warnings denied
	$(CARGO) fmt --check
	$(CARGO) clippy --release --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --locked --no-deps

.PHONY: help
help: ## this list
	@echo "make VERB [VARIABLE=value ...]"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | awk -F'\t' '{ printf "  %-16s %s\n", $$1, $$2 }'
	@echo "variables:"
	@sed -n 's/^#   \([A-Z_]*=.*\)/  \1/p' $(MAKEFILE_LIST)
