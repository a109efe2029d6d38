"""Functions of JAX as ONNX files, for programs that know neither JAX nor covjax.

A function is traced with sizes left open, and every operation that JAX records becomes one or
several of ONNX (opset 17). Those that depend on weights alone are computed here. Convolutions and
pooling are between two transpositions, since ONNX has channels first; ONNX Runtime removes nearly
all of them. The operations are those of our networks: another one is refused by name.
"""

import ast
import math
import string
from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import export
from jax.extend.core import Literal

from covjax import InputError, installation
from covjax.models import layers

OPSET, IR = 17, 8
EMPTY = object()  # a value without numbers, which ONNX would not make of others
INSTALL = f'ONNX files need the package onnx; {installation.extra("onnx")}'
# By the name of an operation of JAX: the operation of ONNX that takes and gives the same.
SAME = {
    **{'add': 'Add', 'add_any': 'Add', 'sub': 'Sub', 'mul': 'Mul', 'div': 'Div'},
    **{'max': 'Max', 'min': 'Min', 'exp': 'Exp', 'log': 'Log', 'tanh': 'Tanh', 'sqrt': 'Sqrt'},
    **{'logistic': 'Sigmoid', 'neg': 'Neg', 'abs': 'Abs', 'pow': 'Pow', 'sign': 'Sign'},
    **{'stop_gradient': 'Identity', 'copy': 'Identity', 'optimization_barrier': 'Identity'},
    **{'round': 'Round', 'floor': 'Floor', 'eq': 'Equal', 'lt': 'Less', 'gt': 'Greater'},
}
# Whose parameter is a function that is written in place of its call.
CALLS = ('jit', 'pjit', 'closed_call', 'custom_jvp_call', 'custom_vjp_call', 'remat', 'checkpoint')


class Input(NamedTuple):
    """The one input of a file: images [N, H, W, C] or volumes [N, D, H, W, C]."""

    name: str
    dtype: Any  # np.uint8 or np.float32
    sides: int = 2  # 2 of images, 3 of volumes
    channels: int = 1
    multiple: int = 1  # of the sides that the function takes; other images are padded, then cropped
    margin: str = 'reflect'  # how: reflect or edge
    least: int = 1  # pixels of a side
    fixed: tuple[int, ...] = ()  # the sides, where the function takes no others

    def dims(self) -> tuple:
        """The shape that the function is traced with, of numbers and sizes that are left open."""
        names = [f'{self.multiple}*s{i}' for i in range(self.sides)]
        texts = map(str, self.fixed or names)
        least = -(-self.least // self.multiple)
        open_ = [] if self.fixed else [f's{i} >= {least}' for i in range(self.sides)]
        shape = f'n, {", ".join(texts)}, {self.channels}'
        return export.symbolic_shape(shape, constraints=open_)


def model_of(function: Callable, takes: Input, gives: str, about: dict[str, Any]) -> Any:
    """The ONNX model of a function, onnx.ModelProto.

    Args:
        function: array [N, ..., C] -> array [N, ...] with the same sides, or without any. It is
            traced once, with layers written plainly (covjax.models.layers.plainly).
        takes: Input.
        gives: name of the output.
        about: {name: text} for the metadata of the file.

    Raises:
        InputError: onnx is not installed, or the function does what no operation here says.
    """
    try:
        import onnx
        from onnx import helper
    except ImportError:
        raise InputError(INSTALL) from None
    shown = jax.ShapeDtypeStruct(takes.dims(), takes.dtype)
    with layers.plainly():
        traced = _traced(function, shown)
    (result,) = traced.out_avals
    graph = _Graph(onnx)
    padded = graph.input(takes)
    (output,) = graph.written(traced.jaxpr, traced.consts, [padded])
    has_sides = len(result.shape) == len(shown.shape)
    graph.node('Identity', [graph.cropped(output, takes) if has_sides else output], gives)
    sides = list(takes.fixed or [f'side{i}' for i in range(takes.sides)])
    described = (
        (takes.name, takes.dtype, ['n', *sides, takes.channels]),
        (
            gives,
            result.dtype,
            ['n', *(sides if has_sides else ()), *result.shape[-1:]][: result.ndim],
        ),
    )
    proto = helper.make_graph(
        graph.nodes,
        'covjax',
        *(
            [helper.make_tensor_value_info(name, graph.dtype(dtype), shape)]
            for name, dtype, shape in described
        ),
    )
    proto.initializer.extend(graph.constants)
    model = helper.make_model(
        proto, opset_imports=[helper.make_opsetid('', OPSET)], ir_version=IR, producer_name='covjax'
    )
    helper.set_model_props(model, {name: str(text) for name, text in about.items()})
    onnx.checker.check_model(model)
    return model


def _traced(function, shown):
    """The operations of a function, whose sizes are left open."""
    try:
        return jax.make_jaxpr(function)(shown)
    except jax.errors.InconclusiveDimensionOperation:
        raise InputError(
            'what this network does with an image depends on its size, which a file for any size '
            'cannot say; export it with config.format=safetensors'
        ) from None


class _Graph:
    """The nodes of a file as they are written."""

    def __init__(self, onnx):
        self.onnx, self.nodes, self.constants = onnx, [], []
        self._sizes = {}  # {text of a size: name of its int64 [1]}
        self._kept = {}  # {(dtype, shape, bytes): name of a constant}

    def input(self, takes):
        """The name of the input, padded to what the function takes; keeps its sizes."""
        self.original = self.node('Shape', [takes.name])
        side = lambda axis: self.node(
            'Slice', [self.original, *(self.constant(np.array([i])) for i in (axis, axis + 1))]
        )
        self._sizes['n'] = side(0)
        if takes.fixed:
            return takes.name
        multiple, more = (
            self.constant(np.array([n])) for n in (takes.multiple, takes.multiple - 1)
        )
        after = []
        for i in range(takes.sides):
            here = side(1 + i)
            # Of 33 pixels and multiples of 4 the function sees 4 x 9.
            count = self.node('Div', [self.node('Add', [here, more]), multiple])
            whole = self.node('Mul', [count, multiple])
            self._sizes |= {f's{i}': count, f'{takes.multiple}*s{i}': whole}
            after.append(self.node('Sub', [whole, here]))
        if takes.multiple == 1:
            return takes.name
        zero = self.constant(np.array([0]))
        pads = [zero] * (2 + takes.sides) + [zero, *after, zero]
        pads = self.node('Concat', pads, axis=0)
        return self.node('Pad', [takes.name, pads], mode=takes.margin)

    def cropped(self, name, takes):
        """An output with the sides of the input."""
        if takes.fixed or takes.multiple == 1:
            return name
        first, last = (self.constant(np.array([n])) for n in (1, 1 + takes.sides))
        sides = self.node('Slice', [self.original, first, last])
        axes = np.arange(1, 1 + takes.sides)
        starts = self.constant(np.zeros_like(axes))
        return self.node('Slice', [name, starts, sides, self.constant(axes)])

    def dtype(self, dtype):
        """The number that ONNX has for a dtype."""
        return self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def node(self, kind, inputs, output='', **attributes):
        """Adds a node -> the name of its one output."""
        output = output or f'x{len(self.nodes)}'
        made = self.onnx.helper.make_node(kind, inputs, [output], **attributes)
        self.nodes.append(made)
        return output

    def constant(self, array):
        """The name of an array that the file holds, once."""
        array = np.asarray(array)
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self._kept:
            self._kept[key] = f'c{len(self.constants)}'
            self.constants.append(self.onnx.numpy_helper.from_array(array, self._kept[key]))
        return self._kept[key]

    def size(self, dim):
        """The name of a size as int64 [1], computed from those of the input where it is open."""
        text = str(dim)
        if text not in self._sizes:
            tree = ast.parse(text.replace('^', '**'), mode='eval').body
            self._sizes[text] = self._computed(tree)
        return self._sizes[text]

    def _computed(self, tree):
        """The name of int64 [1] of an expression of sizes, as JAX writes it."""
        match tree:
            case ast.Constant():
                return self.constant(np.array([tree.value]))
            case ast.Name():
                return self._sizes[tree.id]
            case ast.UnaryOp():
                return self.node('Neg', [self._computed(tree.operand)])
            case ast.BinOp(op=ast.Pow()):
                factors = [self._computed(tree.left)] * tree.right.value
                return reduce(lambda one, other: self.node('Mul', [one, other]), factors)
            case ast.BinOp():
                kind = {ast.Add: 'Add', ast.Sub: 'Sub', ast.Mult: 'Mul'}[type(tree.op)]
                return self.node(kind, [self._computed(tree.left), self._computed(tree.right)])
            case ast.Call():
                # Sizes are not negative, so that rounding to 0 is rounding down.
                kind = {'floordiv': 'Div', 'mod': 'Mod', 'max': 'Max', 'min': 'Min'}[tree.func.id]
                return self.node(kind, [self._computed(each) for each in tree.args])
        raise InputError(f'a size of {ast.unparse(tree)} has no operation of ONNX')

    def shape(self, dims):
        """The name of a shape, int64 [rank]."""
        if all(map(_is_number, dims)):
            return self.constant(np.array(dims, np.int64))
        return self.node('Concat', [self.size(dim) for dim in dims], axis=0)

    def written(self, jaxpr, consts, inputs):
        """Writes the operations of a function of JAX -> its outputs.

        Values are NumPy arrays where they depend on weights alone, otherwise names.

        Args:
            jaxpr: as JAX records it.
            consts: arrays.
            inputs: values.

        Returns:
            [name].
        """
        outputs = self._values(jaxpr, consts, inputs)
        return [self.name(value) for value in outputs]

    def _values(self, jaxpr, consts, inputs):
        known = dict(zip(jaxpr.constvars, map(np.asarray, consts)))
        known |= dict(zip(jaxpr.invars, inputs))
        literal = lambda var: np.asarray(var.val, var.aval.dtype)
        value = lambda var: literal(var) if isinstance(var, Literal) else known[var]
        for equation in jaxpr.eqns:
            values = [value(var) for var in equation.invars]
            known |= dict(zip(equation.outvars, self._results(equation, values)))
        return [value(var) for var in jaxpr.outvars]

    def _results(self, equation, values):
        """What an operation gives, a list."""
        name, params = equation.primitive.name, equation.params
        if name in CALLS:
            inner = params.get('jaxpr') or params.get('call_jaxpr') or params['fun_jaxpr']
            closed = getattr(inner, 'jaxpr', inner), getattr(inner, 'consts', ())
            return self._values(*closed, values)
        result = equation.outvars[0].aval
        if any(_is_number(dim) and dim == 0 for dim in result.shape):
            return [EMPTY]  # such as a margin of no pixels
        are_known = not any(value is EMPTY or isinstance(value, str) for value in values)
        if are_known and name != 'dim_as_value' and _is_static(result.shape, params):
            return [np.asarray(equation.primitive.bind(*values, **params))]
        if name in SAME:
            return [self.node(SAME[name], [self.name(value) for value in values])]
        if name not in OPERATIONS:
            raise InputError(f'the operation {name} of JAX has no counterpart here in ONNX')
        return [OPERATIONS[name](self, values, equation)]

    def name(self, value):
        """The name of a value; an array becomes a constant of the file."""
        return value if isinstance(value, str) else self.constant(value)

    # ---- operations with parameters

    def reshaped(self, value, shape):
        """A value in another shape; 0 is a size like any other."""
        return self.node('Reshape', [self.name(value), self.shape(shape)], allowzero=1)

    def moved(self, value, order):
        """A value with its axes in another order."""
        if tuple(order) == tuple(range(len(order))):
            return self.name(value)
        if not isinstance(value, str):
            return self.constant(np.ascontiguousarray(value.transpose(order)))
        return self.node('Transpose', [value], perm=list(map(int, order)))


def _is_static(shape, params):
    """Whether neither a result nor the parameters of an operation have open sizes."""
    listed = [*shape, *params.get('shape', ()), *params.get('new_sizes', ())]
    return all(map(_is_number, listed))


def _is_number(dim):
    """Whether a size is a number, and not left open."""
    return isinstance(dim, (int, np.integer))


def _back(spec):
    """The order of axes that undoes one."""
    return np.argsort(spec)


def _convolution(graph, values, equation):
    params = equation.params
    numbers = params['dimension_numbers']
    if any(step != 1 for step in params['lhs_dilation']) or params['batch_group_count'] != 1:
        raise InputError('a transposed convolution has no counterpart here in ONNX')
    lows, highs = zip(*params['padding'])
    result = graph.node(
        'Conv',
        [graph.moved(values[0], numbers.lhs_spec), graph.moved(values[1], numbers.rhs_spec)],
        strides=list(params['window_strides']),
        pads=[*lows, *highs],
        dilations=list(params['rhs_dilation']),
        group=params['feature_group_count'],
    )
    return graph.moved(result, _back(numbers.out_spec))


def _pooled(graph, values, equation, kind, **attributes):
    """A pooling of [B, H, W, C] or [B, D, H, W, C]."""
    params = equation.params
    rank = len(params['window_dimensions'])
    first = (0, rank - 1, *range(1, rank - 1))
    lows, highs = zip(*params['padding'][1:-1])
    result = graph.node(
        kind,
        [graph.moved(values[0], first)],
        kernel_shape=list(params['window_dimensions'][1:-1]),
        strides=list(params['window_strides'][1:-1]),
        pads=[*lows, *highs],
        **attributes,
    )
    return graph.moved(result, _back(first))


def _max_pool(graph, values, equation):
    return _pooled(graph, values, equation, 'MaxPool')


def _window_sum(graph, values, equation):
    means = _pooled(graph, values, equation, 'AveragePool', count_include_pad=1)
    count = math.prod(equation.params['window_dimensions'])
    return graph.node('Mul', [means, graph.constant(np.float32(count))])


def _product(graph, values, equation):
    """Sums of products over any axes, in Einstein's notation; the usual one is a MatMul."""
    contracted, batch = equation.params['dimension_numbers']
    ranks = [len(var.aval.shape) for var in equation.invars]
    names = [graph.name(value) for value in values]
    if contracted == ((ranks[0] - 1,), (0,)) and ranks[1] == 2 and not batch[0]:
        return graph.node('MatMul', names)
    letters = iter(string.ascii_lowercase)
    shared = [next(letters) for _ in (*batch[0], *contracted[0])]
    labels = []
    for rank, of_batch, summed in zip(ranks, batch, contracted):
        known = dict(zip((*of_batch, *summed), shared))
        labels.append([known.get(axis) or next(letters) for axis in range(rank)])
    free = [label for each in labels for label in each if label not in shared]
    result = ''.join((*shared[: len(batch[0])], *free))
    terms = ','.join(map(''.join, labels))
    return graph.node('Einsum', names, equation=f'{terms}->{result}')


def _reshaped(graph, values, equation):
    return graph.reshaped(values[0], equation.outvars[0].aval.shape)


def _broadcast(graph, values, equation):
    """A value with axes of 1 where it had none, repeated to a shape."""
    shape = equation.params['shape']
    places, before = equation.params['broadcast_dimensions'], equation.invars[0].aval.shape
    with_ones = [1] * len(shape)
    for place, dim in zip(places, before):
        with_ones[place] = dim
    return graph.node('Expand', [graph.reshaped(values[0], with_ones), graph.shape(shape)])


def _padded(graph, values, equation):
    config = equation.params['padding_config']
    if any(inside or min(low, high) < 0 for low, high, inside in config):
        raise InputError('a padding inside or below 0 has no counterpart here in ONNX')
    lows, highs, _ = zip(*config)
    pads = graph.shape((*lows, *highs))
    return graph.node('Pad', [graph.name(values[0]), pads, graph.name(values[1])])


def _sliced(graph, values, equation):
    params = equation.params
    steps = params['strides'] or (1,) * len(params['start_indices'])
    ends = [
        graph.shape(params['start_indices']),
        graph.shape(params['limit_indices']),
        graph.constant(np.arange(len(steps))),
        graph.constant(np.array(steps)),
    ]
    return graph.node('Slice', [graph.name(values[0]), *ends])


def _reversed(graph, values, equation):
    axes = np.array(equation.params['dimensions'])
    ends = np.full(len(axes), -1), np.full(len(axes), np.iinfo(np.int64).min), axes
    steps = np.full(len(axes), -1)
    constants = [graph.constant(each) for each in (*ends, steps)]
    return graph.node('Slice', [graph.name(values[0]), *constants])


def _sum(graph, values, equation):
    axes = graph.constant(np.array(equation.params['axes']))
    return graph.node('ReduceSum', [graph.name(values[0]), axes], keepdims=0)


def _greatest(graph, values, equation):
    axes = [int(axis) for axis in equation.params['axes']]
    return graph.node('ReduceMax', [graph.name(values[0])], axes=axes, keepdims=0)


def _transposed(graph, values, equation):
    return graph.moved(values[0], equation.params['permutation'])


def _joined(graph, values, equation):
    names = [graph.name(value) for value in values if value is not EMPTY]
    return graph.node('Concat', names, axis=int(equation.params['dimension']))


def _converted(graph, values, equation):
    to = graph.dtype(equation.params['new_dtype'])
    return graph.node('Cast', [graph.name(values[0])], to=to)


def _as_value(graph, values, equation):
    """A size as a number, int32 or int64 []."""
    size = graph.node('Squeeze', [graph.size(equation.params['dim'])])
    return graph.node('Cast', [size], to=graph.dtype(equation.outvars[0].aval.dtype))


def _inverse_root(graph, values, equation):
    return graph.node('Reciprocal', [graph.node('Sqrt', [graph.name(values[0])])])


def _exponential_less_one(graph, values, equation):
    exponential = graph.node('Exp', [graph.name(values[0])])
    return graph.node('Sub', [exponential, graph.constant(np.float32(1))])


def _square(graph, values, equation):
    return graph.node('Mul', [graph.name(values[0])] * 2)


def _power(graph, values, equation):
    power = graph.constant(np.float32(equation.params['y']))
    return graph.node('Pow', [graph.name(values[0]), power])


def _chosen(graph, values, equation):
    """select_n of two: the second where the condition is true."""
    condition, no, yes = map(graph.name, values)
    return graph.node('Where', [condition, yes, no])


def _clamped(graph, values, equation):
    low, value, high = map(graph.name, values)
    return graph.node('Min', [graph.node('Max', [value, low]), high])


def _without_axes(graph, values, equation):
    axes = graph.constant(np.array(equation.params['dimensions']))
    return graph.node('Squeeze', [graph.name(values[0]), axes])


OPERATIONS = {
    'broadcast_in_dim': _broadcast,
    'clamp': _clamped,
    'concatenate': _joined,
    'conv_general_dilated': _convolution,
    'convert_element_type': _converted,
    'dim_as_value': _as_value,
    'dot_general': _product,
    'expm1': _exponential_less_one,
    'integer_pow': _power,
    'pad': _padded,
    'reduce_max': _greatest,
    'reduce_sum': _sum,
    'reduce_window_max': _max_pool,
    'reduce_window_sum': _window_sum,
    'reshape': _reshaped,
    'rev': _reversed,
    'rsqrt': _inverse_root,
    'select_n': _chosen,
    'slice': _sliced,
    'square': _square,
    'squeeze': _without_axes,
    'transpose': _transposed,
}
