"""What headers often hold, for deflate to refer to. Part of the format: another text would be another version of it."""

_OPERATORS = """
["adaptive_avg_pool2d","<1",[1,1]],["avg_pool2d","<1",[2,2]],["gelu","<1"],["silu","<1"],["sigmoid","<1"],
["hardtanh","<1",0.0,6.0],["hardswish","<1"],["tanh","<1"],["softmax.int","<1",-1],["matmul","<2","<1"],
["layer_norm","<1",[64],"@","@"],["embedding","@","<1"],["transpose.int","<1",1,2],["permute","<1",[0,2,1,3]],
["scaled_dot_product_attention","<3","<2","<1"],["unsqueeze","<1",1],["select.int","<1",1,-1],
["slice.Tensor","<1",1,0,9223372036854775807],["cat",["<2","<1"],1],["mul.Tensor","<2","<1"],["sub.Tensor","<2","<1"],
["lstm.input","<3",["<2","<1"],["@","@","@","@"],true,1,0.0,false,false,true],["operator.getitem","<1",0],
["constant_pad_nd","<1",[0,0,0,0,8,8],0.0],["sym_size.int","<1",0],["view","<1",["<1",-1]],["reshape","<1",[-1,64]],
[{"":"batch_norm","switch":"training"},"<1","@","@","@","@",false,0.1,1e-05,false],["dropout","<1",0.5,false],
["max_pool2d","<1",[2,2]],["max_pool2d","<1",[3,3],[2,2],[1,1]],["relu","<1"],["relu_","<1"],
["mean.dim","<1",[2,3],true],["flatten.using_ints","<1",1],["clamp","<1",128,255],["add.Tensor","<6","<1"],
["add_.Tensor","<8","<1"],["linear","<1","@","@"],["conv2d","<1","@","@",[1,1],[1,1]],["conv1d","<2","<1","@"]
"""
_TENSORS = """
{"name":".running_mean","kind":"buffer"},{"name":".num_batches_tracked","int64"},
{"name":".bias","kind":"parameter","requires_grad":true}],[64,{"name":".weight","kind":"parameter","requires_grad":true}]
"""
_FOLDED = """
"example_tree":[1,{"type":"builtins.tuple","context":"null","children_spec":[{"type":null,"context":null,
"children_spec":[]}]}],"layers.0.conv1","layer":"layer1.0.conv1"},"layer":"fc1"},"layer":"features.0"},
"trimtab.quantize","<3","<2","<1"],["trimtab.dequantize","<1","<4","<3"],["trimtab.dequantize","@","@","@"],
[{"":"conv2d","layer":"conv2"},"<2","<1","@",[1,1],[1,1],[1,1],64],["@"],["@"],["trimtab.quantize","<3","<2","<1"],
["trimtab.dequantize","<1","<3","<2"],["trimtab.dequantize","@","@","@"],
[{"":"linear","layer":"fc"},"<2","<1","@"],["=",{"tuple":["<1"]}]],"first":true}
{"inputs":[["input",3,3,32,32]],[["x",3,1,28,28]],"tensors":[[],["uint8"],[16,3,3,3,"int8"],[16],[16,"int8"],[16],[],["uint8"],
[32,32,3,3,"int8"],[32],[32,"int8"],[32],[],["uint8"],[64,64,3,3,"int8"],[64],[64,"int8"],[64],[],["uint8"],
[10,64,"int8"],[10],[10,"int8"],[10]],"nodes":[["trimtab.dequantize","@","@","@"],[{"":"conv2d","layer":"conv1"},"<2","<1","@"]
"""
DICTIONARY = (_OPERATORS + _TENSORS + _FOLDED).replace("\n", "").encode()
