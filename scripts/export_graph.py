"""From a Keras model to an ONNX graph, and the comparison of the two.

Why it exists: a ResNet uses seven kinds of layer, and writing those seven down gives a graph whose nodes and tensors
carry the layers' own names, whose parameters are the model's, one for one (convolution biases and batch
normalisation are kept, not folded), and whose bytes are the same for the same weights. A general converter gives none
of these and ties the export to its own choice of versions.

It must not know where the weights came from or where the file goes.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# ONNX Runtime 1.17 and later read both; nothing here needs newer ones.
OPSET = 17
IR_VERSION = 8
INPUT = "input"  # [N, S, S, 3] float32
FEATURES = "features"  # [N, H, W, C] float32


class UnsupportedLayer(Exception):
    """A layer, or a setting of one, that the walk below does not translate."""


def to_onnx(model, metadata):
    """The graph of a functional Keras model of one image input: NHWC outside, NCHW inside, as ONNX convolves."""
    nodes, initializers = [], []
    tensor_names = {}  # id of a Keras tensor -> name of the ONNX tensor, NCHW

    def parameter(layer, name, values):
        full_name = f"{layer.name}/{name}"
        initializers.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), full_name))
        return full_name

    def emit(op, layer, inputs, **attributes):
        nodes.append(helper.make_node(op, inputs, [layer.name], name=layer.name, **attributes))

    nodes.append(helper.make_node("Transpose", [INPUT], ["input_nchw"], name="to_nchw", perm=[0, 3, 1, 2]))
    for layer in model.layers:
        kind = type(layer).__name__
        if kind == "InputLayer":
            tensor_names[id(layer.output)] = "input_nchw"
            continue
        taken = layer.input if isinstance(layer.input, (list, tuple)) else [layer.input]
        inputs = [tensor_names[id(tensor)] for tensor in taken]
        if kind == "ZeroPadding2D":
            (top, bottom), (left, right) = layer.padding
            pads = numpy_helper.from_array(np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
            nodes.append(helper.make_node("Constant", [], [f"{layer.name}/pads"], value=pads))
            emit("Pad", layer, [inputs[0], f"{layer.name}/pads"], mode="constant")
        elif kind == "Conv2D":
            if layer.groups != 1 or layer.activation.__name__ != "linear" or not layer.use_bias:
                raise UnsupportedLayer(f"{layer.name}: a grouped, activated or bias-free convolution")
            kernel = np.asarray(layer.kernel)  # [H, W, in, out]
            emit(
                "Conv",
                layer,
                [
                    inputs[0],
                    parameter(layer, "kernel", kernel.transpose(3, 2, 0, 1)),  # [out, in, H, W]
                    parameter(layer, "bias", np.asarray(layer.bias)),
                ],
                kernel_shape=list(layer.kernel_size),
                strides=list(layer.strides),
                dilations=list(layer.dilation_rate),
                pads=padding(layer, layer.kernel_size),
            )
        elif kind == "BatchNormalization":
            statistics = ("gamma", "beta", "moving_mean", "moving_variance")
            values = [parameter(layer, name, np.asarray(getattr(layer, name))) for name in statistics]
            emit("BatchNormalization", layer, [inputs[0], *values], epsilon=float(layer.epsilon))
        elif kind == "Activation":
            if layer.activation.__name__ != "relu":
                raise UnsupportedLayer(f"{layer.name}: activation {layer.activation.__name__}")
            emit("Relu", layer, inputs)
        elif kind == "MaxPooling2D":
            emit(
                "MaxPool",
                layer,
                inputs,
                kernel_shape=list(layer.pool_size),
                strides=list(layer.strides),
                pads=padding(layer, layer.pool_size),
            )
        elif kind == "Add":
            if len(inputs) != 2:
                raise UnsupportedLayer(f"{layer.name}: a sum of {len(inputs)}")
            emit("Add", layer, inputs)
        else:
            raise UnsupportedLayer(f"{layer.name}: a layer of type {kind}")
        tensor_names[id(layer.output)] = layer.name
    last = tensor_names[id(model.outputs[0])]
    nodes.append(helper.make_node("Transpose", [last], [FEATURES], name="to_nhwc", perm=[0, 2, 3, 1]))

    graph = helper.make_graph(
        nodes,
        model.name,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["N", *model.input_shape[1:]])],
        [helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["N", *model.output_shape[1:]])],
        initializers,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    onnx_model = helper.make_model(graph, producer_name="headstart", opset_imports=opsets, ir_version=IR_VERSION)
    helper.set_model_props(onnx_model, metadata)
    return onnx_model


def padding(layer, window):
    """ONNX pads of a window: [top, left, bottom, right]."""
    if layer.padding == "valid":
        return [0, 0, 0, 0]
    # "same" with a stride pads unevenly and by the image's size; no ResNet layer asks for it.
    if tuple(layer.strides) != (1, 1) or any(side % 2 == 0 for side in window):
        raise UnsupportedLayer(f"{layer.name}: padding {layer.padding} with strides {layer.strides}, window {window}")
    spread = [(side - 1) * dilation // 2 for side, dilation in zip(window, getattr(layer, "dilation_rate", (1, 1)))]
    return spread * 2


def parameter_count(onnx_model):
    return sum(int(np.prod(tensor.dims)) for tensor in onnx_model.graph.initializer)


def compare(onnx_path, model, batches):
    """The largest |ONNX Runtime - Keras| over the largest |Keras|, batch by batch, and the maps' mean and maximum."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    onnx.checker.check_model(str(onnx_path), full_check=True)
    session = onnxruntime.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
    worst, means, maxima = 0.0, [], []
    for images in batches:  # [N, S, S, 3]
        expected = np.asarray(model(images, training=False))  # [N, H, W, C]
        (got,) = session.run([FEATURES], {INPUT: images})
        if got.shape != expected.shape:
            raise ValueError(f"ONNX Runtime gives maps of shape {got.shape}, Keras {expected.shape}")
        if not (np.isfinite(expected).all() and np.isfinite(got).all()):
            raise ValueError("the feature maps hold values that are not finite")
        largest = float(np.abs(expected).max())
        if largest == 0.0 or float(expected.std()) == 0.0:
            raise ValueError("the feature maps are constant")
        worst = max(worst, float(np.abs(got - expected).max()) / largest)
        means.append(float(expected.mean()))
        maxima.append(largest)
    return worst, sum(means) / len(means), max(maxima)
