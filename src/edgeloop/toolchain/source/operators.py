"""TensorFlow's operators that compute from tensors and the model's own variables, and do nothing else.

A list of what may run, not of what may not: among the thousand others are those that write files (PrintV2 as well as
WriteFile), call Python, open sockets or import libraries, and every release brings new ones. Neighbour: `savedmodel`
holds graphs to it.
"""

_STRUCTURE = """
    Placeholder PlaceholderWithDefault PlaceholderV2 Const Identity IdentityN NoOp StopGradient PreventGradient Snapshot
    EnsureShape OptionalFromValue _Arg _Retval
    VarHandleOp ReadVariableOp AssignVariableOp AssignAddVariableOp AssignSubVariableOp VarIsInitializedOp VariableShape
    DestroyResourceOp ResourceGather ResourceGatherNd
    PartitionedCall StatefulPartitionedCall If StatelessIf While StatelessWhile Case StatelessCase
    Switch Merge Enter Exit NextIteration LoopCond RefSwitch
    Assert CheckNumerics
"""

_ARITHMETIC = """
    Abs Acos Acosh Add AddN AddV2 AccumulateNV2 Angle Asin Asinh Atan Atan2 Atanh BitwiseAnd BitwiseOr BitwiseXor Ceil
    ClipByValue Complex ComplexAbs Conj Cos Cosh Cross Digamma Div DivNoNan Erf Erfc Erfinv Exp Expm1 Floor FloorDiv
    FloorMod Imag Inv Invert LeftShift Lgamma Log Log1p Maximum Minimum Mod Mul MulNoNan Ndtri Neg NextAfter Polygamma
    Pow Real RealDiv Reciprocal RightShift Rint Round Rsqrt Sign Sin Sinh Sqrt Square SquaredDifference Sub Tan
    TruncateDiv TruncateMod Xdivy Xlog1py Xlogy Zeta Igamma Igammac Betainc BesselI0e BesselI1e
    Equal NotEqual ApproximateEqual Greater GreaterEqual Less LessEqual LogicalAnd LogicalNot LogicalOr
    IsFinite IsInf IsNan Select SelectV2
    Cast Bitcast
    All Any ArgMax ArgMin Bincount DenseBincount Cumprod Cumsum CumulativeLogsumexp EuclideanNorm HistogramFixedWidth
    Max Mean Min Prod Sum SegmentMax SegmentMean SegmentMin SegmentProd SegmentSum UnsortedSegmentMax
    UnsortedSegmentMin UnsortedSegmentProd UnsortedSegmentSum
    MatMul BatchMatMul BatchMatMulV2 BatchMatMulV3 Einsum Cholesky Qr Svd SelfAdjointEigV2 MatrixBandPart
    MatrixDeterminant MatrixDiag MatrixDiagPart MatrixDiagPartV2 MatrixDiagPartV3 MatrixDiagV2 MatrixDiagV3
    MatrixInverse MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3 MatrixSolve MatrixTriangularSolve Diag DiagPart
    FFT FFT2D IFFT IFFT2D RFFT RFFT2D IRFFT IRFFT2D Bucketize
    RandomStandardNormal RandomUniform RandomUniformInt TruncatedNormal Multinomial StatelessRandomNormalV2
    StatelessRandomUniformV2 StatelessRandomUniformIntV2 StatelessTruncatedNormalV2 StatelessRandomGetKeyCounter
    StatelessRandomGetAlg StatelessRandomGetKeyCounterAlg
"""

_LAYERS = """
    Conv Conv2D Conv2DBackpropInput Conv3D Conv3DBackpropInputV2 DepthwiseConv2dNative Dilation2D
    DepthwiseConv2dNativeBackpropInput
    AvgPool AvgPool3D FractionalAvgPool FractionalMaxPool MaxPool MaxPool3D MaxPoolV2 MaxPoolWithArgmax
    BiasAdd BiasAddV1 FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 L2Loss LRN
    Elu LeakyRelu LogSoftmax Relu Relu6 Selu Sigmoid Softmax Softplus Softsign Tanh
    BlockLSTM BlockLSTMV2 LSTMBlockCell GRUBlockCell CudnnRNN CudnnRNNV2 CudnnRNNV3 CTCGreedyDecoder
    _FusedConv2D _FusedMatMul _FusedDepthwiseConv2dNative _FusedBatchNormEx
    Dequantize QuantizeV2 QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4
    FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel
    UniformQuantize UniformDequantize UniformRequantize UniformQuantizedConvolution UniformQuantizedDot
    UniformQuantizedAdd UniformQuantizedClipByValue
    XlaConvV2 XlaDotV2 XlaGather XlaSelectAndScatter
    AdjustContrastv2 AdjustHue AdjustSaturation HSVToRGB RGBToHSV CropAndResize ExtractImagePatches
    ExtractVolumePatches ResizeArea ResizeBicubic ResizeBilinear ResizeNearestNeighbor ScaleAndTranslate
    ImageProjectiveTransformV2 ImageProjectiveTransformV3 CombinedNonMaxSuppression NonMaxSuppression
    NonMaxSuppressionV2 NonMaxSuppressionV3 NonMaxSuppressionV4 NonMaxSuppressionV5
    AudioSpectrogram Mfcc
"""

_SHAPES = """
    BatchToSpace BatchToSpaceND BroadcastArgs BroadcastTo Concat ConcatOffset ConcatV2 ParallelConcat DepthToSpace
    DynamicPartition DynamicStitch ParallelDynamicStitch Empty ExpandDims Fill Gather GatherNd GatherV2
    InvertPermutation LinSpace LowerBound UpperBound MirrorPad OneHot OnesLike Pack Pad PadV2 Range Rank Reshape
    ReverseSequence Reverse ReverseV2 Roll ScatterNd ScatterNdNonAliasingAdd TensorScatterAdd TensorScatterMax
    TensorScatterMin TensorScatterSub TensorScatterUpdate TensorStridedSliceUpdate Shape ShapeN Size Slice
    SpaceToBatch SpaceToBatchND SpaceToDepth Split SplitV Squeeze StridedSlice Tile TopK TopKV2 Transpose
    ConjugateTranspose Unique UniqueV2 UniqueWithCounts UniqueWithCountsV2 Unpack Where ZerosLike InTopKV2
    BroadcastGradientArgs SparseToDense SparseTensorDenseMatMul SparseReshape SparseReorder SparseFillEmptyRows
    RaggedGather RaggedRange RaggedTensorToSparse RaggedTensorToTensor
    EmptyTensorList TensorListConcatV2 TensorListElementShape TensorListFromTensor TensorListGather TensorListGetItem
    TensorListLength TensorListPopBack TensorListPushBack TensorListReserve TensorListResize TensorListScatterV2
    TensorListSetItem TensorListSplit TensorListStack
    TensorArrayV3 TensorArrayReadV3 TensorArrayWriteV3 TensorArrayGatherV3 TensorArrayScatterV3 TensorArraySizeV3
    TensorArrayCloseV3
    HashTableV2 InitializeTableV2 LookupTableFindV2 LookupTableImportV2 LookupTableSizeV2
"""

COMPUTING = frozenset(" ".join((_STRUCTURE, _ARITHMETIC, _LAYERS, _SHAPES)).split())
"""Their names. Variables live in memory; a table's content comes from tensors, never from a file."""
