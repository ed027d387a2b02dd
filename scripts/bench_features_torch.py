"""PyTorch's tasks for scripts/bench_features_peers.py, on the processor or, held and from the files, on an NVIDIA GPU.

`tasks` gives them by name and the versions; batches, as many images as each has and their side follow from the input
that it is given. It must not know what is done with the figures.
"""

import sys
from pathlib import Path

import torch
import torchvision
from torch.utils.data import DataLoader, Dataset


def check(settings):
    """Ends with a line that says so where the device is not there."""
    if settings["device"] == "cuda" and not torch.cuda.is_available():
        sys.exit(
            f"error: PyTorch {torch.__version__} of {sys.executable} finds no CUDA device (hint: does nvidia-smi list"
            " one? --bench-python names another Python with PyTorch)"
        )


class Files(Dataset):
    """The JPEG files of a folder as the model takes them."""

    def __init__(self, folder, side):
        self.files, self.side = sorted(str(file) for file in Path(folder).glob("*/*")), side

    def __len__(self):
        return len(self.files)

    def __getitem__(self, n):
        rgb = torchvision.io.decode_jpeg(torchvision.io.read_file(self.files[n]), torchvision.io.ImageReadMode.RGB)
        return torch.nn.functional.interpolate(rgb[None].float(), (self.side, self.side), mode="bilinear")[0] / 255


def files_loader(settings, inputs, **more):
    """Batches of the first set's files, in the shape of the held ones."""
    size, side = inputs[0].shape[:2]
    files = Files(settings["sets"][0]["folder"], side)
    return DataLoader(files, batch_size=size, num_workers=settings["threads"], persistent_workers=True, **more)


def backbone():
    """ResNet50 without its head, channels last."""
    model = torchvision.models.resnet50(weights=None)
    for stage in (model.layer2, model.layer3, model.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)  # version 1, as Keras's
    return torch.nn.Sequential(*list(model.children())[:-2]).eval().to(memory_format=torch.channels_last)


def cpu_tasks(settings, inputs):
    model = backbone()
    # Channels first by shape, channels last in memory.
    batches = [torch.from_numpy(batch).permute(0, 3, 1, 2) for batch in inputs]

    def bf16(network):
        def run(batch):
            with torch.autocast("cpu", torch.bfloat16):
                return network(batch)

        return run

    def frozen(network):
        return torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(network, batches[0])))

    loader = files_loader(settings, inputs)

    def held(network):
        return lambda: [network(batch) for batch in batches]

    def from_files(network):
        return lambda: [network(batch.contiguous(memory_format=torch.channels_last)) for batch in loader]

    fast = frozen(model)
    return {
        "torch eager": held(model),
        "torch frozen": held(fast),
        "torch bf16": held(bf16(model)),
        "torch files": from_files(fast),
        "torch files bf16": from_files(bf16(model)),
    }


def cuda_tasks(settings, inputs, device="cuda"):
    """Input comes from pinned memory of the host and features go back there: ours end up on the host, too.

    The tests let the processor stand in as the device.
    """
    torch.backends.cudnn.benchmark = True
    model = backbone().to(device)
    # Channels first by shape, channels last in memory.
    held = [torch.from_numpy(batch).pin_memory().permute(0, 3, 1, 2) for batch in inputs]
    files = files_loader(settings, inputs, pin_memory=True)

    def task(batches, precision):
        landed = []  # a batch's features each; made on the first run, which is not timed

        def run():
            # For the whole process: every task sets them anew.
            torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
            torch.backends.cudnn.allow_tf32 = precision != "fp32"
            # Around all batches, so that weights are cast once.
            with torch.autocast(device, torch.float16, enabled=precision == "fp16"):
                for n, batch in enumerate(batches):
                    batch = batch.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
                    maps = model(batch)
                    if n == len(landed):
                        landed.append(torch.empty_like(maps, device="cpu").pin_memory())
                    landed[n].copy_(maps, non_blocking=True)
            torch.cuda.synchronize()

        return run

    # In the order in which bench_features.py puts the second right beside ours in TF32.
    return {
        "torch cuda fp32": task(held, "fp32"),
        "torch cuda files tf32": task(files, "tf32"),
        "torch cuda files fp16": task(files, "fp16"),
        "torch cuda tf32": task(held, "tf32"),
        "torch cuda fp16": task(held, "fp16"),
    }


def tasks(settings, inputs):
    """Tasks by name, and the versions; `inputs` are the held batches, [N, side, side, 3] each."""
    torch.set_num_threads(settings["threads"])
    torch.set_grad_enabled(False)
    of_device = {"cpu": cpu_tasks, "cuda": cuda_tasks}[settings["device"]]
    return of_device(settings, inputs), {"torch": torch.__version__, "torchvision": torchvision.__version__}
