"""The boards that edgeloop knows by name: only figures that a document states, or arithmetic on such figures.

Multiply-adds of published networks: MobileNet v1 569 million and Inception v1 (GoogleNet) 1,550 million are from
Howard et al. 2017 (arXiv 1704.04861), table 8; MobileNet v2 300 million is from Sandler et al. 2018 (arXiv
1801.04381), table 4. Those of the EfficientDet-Lite detectors and of the person detector are not published; docs/
profiles.md shows the arithmetic, which gives the published 2.54 billion of EfficientDet-D0 to within 1 %.
"""

from edgeloop.contracts.manifest import EngineName, Precision
from edgeloop.toolchain.profiles.target import Point, Speed, TargetProfile, speed_from

_GB = 1024**3
_MB = 1024**2

_EFFICIENTDET_LITE = {"0": 1.018e9, "1": 2.098e9, "2": 3.716e9}
_DETECTOR_LOGS = (
    "github.com/NobuoTsukamoto/benchmarks, tensorflow/lite/efficentdet/results/{board}/"
    "efficientdet_latency_v2.18.0.txt: benchmark_model of TensorFlow Lite 2.18, XNNPACK, 1 thread, 'Inference (avg)'; "
    "multiply-adds by arithmetic, see docs/profiles.md"
)
_CORAL = (
    "coral.ai/docs/edgetpu/benchmarks, table 1, 'Dev Board with Edge TPU'; multiply-adds from arXiv 1704.04861, "
    "table 8, and arXiv 1801.04381, table 4"
)

_ALL = tuple(Precision)


def _detectors(board: str, precision: Precision, latency_ms: dict[str, float]) -> Speed:
    source = _DETECTOR_LOGS.format(board=board)
    points = [
        Point(
            network=f"EfficientDet-Lite{size}",
            multiply_adds=_EFFICIENTDET_LITE[size],
            latency_ms=taken_ms,
            source=source,
        )
        for size, taken_ms in latency_ms.items()
    ]
    return speed_from(points, engine=EngineName.LITERT, precision=precision, measured=False, with_overhead=False)


_PI4 = TargetProfile(
    name="pi4",
    title="Raspberry Pi 4 Model B",
    memory_bytes=1 * _GB,
    storage_bytes=None,
    engines=(EngineName.LITERT, EngineName.ONNXRUNTIME, EngineName.OPENVINO),
    precisions=_ALL,
    speeds=(
        _detectors("RasPi4_64bit", Precision.FLOAT32, {"0": 328.651, "1": 648.053, "2": 1048.77}),
        _detectors("RasPi4_64bit", Precision.INT8, {"0": 197.751, "1": 372.260, "2": 601.720}),
    ),
    notes=("Cortex-A72 has neither 8-bit dot products nor float16 arithmetic: int8 gains less than on a Pi 5.",),
    sources=("Raspberry Pi 4 Model B specifications: BCM2711, 4 x Cortex-A72, sold with 1, 2, 4 or 8 GB",),
)

_PI5 = TargetProfile(
    name="pi5",
    title="Raspberry Pi 5",
    memory_bytes=2 * _GB,
    storage_bytes=None,
    engines=(EngineName.LITERT, EngineName.ONNXRUNTIME, EngineName.OPENVINO),
    precisions=_ALL,
    accelerated=(Precision.INT8, Precision.INT8_DYNAMIC, Precision.FLOAT16),
    speeds=(
        _detectors("RasPi5", Precision.FLOAT32, {"0": 104.514, "1": 198.975, "2": 328.918}),
        _detectors("RasPi5", Precision.INT8, {"0": 44.9446, "1": 81.6334}),
    ),
    sources=(
        "Raspberry Pi 5 specifications: BCM2712, 4 x Cortex-A76 at 2.4 GHz, sold with 2, 4, 8 or 16 GB",
        "Arm Cortex-A76 Technical Reference Manual: Armv8.2 dot product and half-precision instructions",
    ),
)

_JETSON_ORIN_NANO = TargetProfile(
    name="jetson-orin-nano",
    title="Jetson Orin Nano Developer Kit",
    memory_bytes=8 * _GB,
    storage_bytes=None,
    engines=(EngineName.LITERT, EngineName.ONNXRUNTIME),
    precisions=_ALL,
    accelerated=(Precision.INT8, Precision.INT8_DYNAMIC, Precision.FLOAT16),
    notes=(
        "edgeloop's engines use its processor, not its GPU. No figure for them on this processor was found: "
        "run 'edgeloop profile measure' on the device.",
    ),
    sources=(
        "NVIDIA Jetson Orin Nano Developer Kit: 6 x Cortex-A78AE, 8 GB LPDDR5 shared with the GPU",
        "Arm Cortex-A78AE Technical Reference Manual: Armv8.2 dot product and half-precision instructions",
    ),
)

_X86_N100 = TargetProfile(
    name="x86-n100",
    title="Intel N100 board",
    memory_bytes=8 * _GB,
    storage_bytes=None,
    engines=(EngineName.LITERT, EngineName.ONNXRUNTIME, EngineName.OPENVINO),
    precisions=_ALL,
    accelerated=(Precision.INT8, Precision.INT8_DYNAMIC),
    speeds=(
        _detectors("N100", Precision.FLOAT32, {"0": 76.5879, "1": 152.890, "2": 247.201}),
        _detectors("N100", Precision.INT8, {"0": 54.757, "1": 103.458, "2": 162.450}),
    ),
    notes=("Memory is the board's, not the processor's: 8 GB as in the Radxa X4 that is reviewed in the source.",),
    sources=("github.com/geerlingguy/sbc-reviews, issue 48: Radxa X4 with Intel N100 and 8 GB",),
)

_CORAL_TPU = TargetProfile(
    name="coral-tpu",
    title="Coral Dev Board with Edge TPU",
    memory_bytes=1 * _GB,
    storage_bytes=8 * _GB,
    engines=(EngineName.LITERT,),
    precisions=(Precision.INT8,),
    accelerated=(Precision.INT8,),
    speeds=(
        speed_from(
            [
                Point(network="MobileNet v1", multiply_adds=569e6, latency_ms=2.4, source=_CORAL),
                Point(network="MobileNet v2", multiply_adds=300e6, latency_ms=2.6, source=_CORAL),
                Point(network="Inception v1", multiply_adds=1550e6, latency_ms=4.1, source=_CORAL),
            ],
            engine=EngineName.LITERT,
            precision=Precision.INT8,
            measured=False,
            with_overhead=False,
        ),
    ),
    notes=(
        "The file must go through Google's edgetpu_compiler before the Edge TPU runs it; what the compiler cannot map "
        "runs on the Cortex-A53 beside it, far slower than estimated here.",
        "About 8 MB of parameters stay on the chip; those of a larger model are sent anew for each inference.",
    ),
    sources=(
        "coral.ai/docs/edgetpu/models-intro: only TensorFlow Lite models that are fully 8-bit quantized",
        "coral.ai/docs/edgetpu/compiler: parameter data caching in about 8 MB of SRAM",
        "Coral Dev Board features: NXP i.MX 8M with 4 x Cortex-A53, 1 GB LPDDR4, 8 GB eMMC",
    ),
)

_ESP32_S3 = TargetProfile(
    name="esp32-s3",
    title="ESP32-S3-DevKitC-1",
    memory_bytes=320 * 1024,
    storage_bytes=8 * _MB,
    engines=(EngineName.LITERT,),
    precisions=(Precision.INT8,),
    accelerated=(Precision.INT8,),
    speeds=(
        speed_from(
            [
                Point(
                    network="person detection (MobileNet v1, a quarter as wide, 96 x 96 grey)",
                    multiply_adds=7.16e6,
                    latency_ms=54,
                    source="github.com/espressif/esp-tflite-micro, README, 'Performance Comparison': ESP32-S3 at "
                    "240 MHz with ESP-NN, internal memory; multiply-adds by arithmetic, see docs/profiles.md",
                )
            ],
            engine=EngineName.LITERT,
            precision=Precision.INT8,
            measured=False,
            with_overhead=False,
        ),
    ),
    micro=True,
    notes=(
        "Tensors lie in an arena in the 320 KB that a program has of the 512 KB of SRAM; the program needs some of it "
        "too. Boards with PSRAM hold more, slower.",
    ),
    sources=(
        "ESP32-S3-WROOM-1 datasheet: 512 KB SRAM; docs.platformio.org, ESP32-S3 boards: 320 KB RAM for programs",
        "ESP32-S3-DevKitC-1: 8 MB flash",
        "github.com/espressif/esp-nn: kernels for s8, with the vector instructions of the ESP32-S3",
    ),
)

KNOWN = {profile.name: profile for profile in (_PI4, _PI5, _JETSON_ORIN_NANO, _X86_N100, _CORAL_TPU, _ESP32_S3)}
"""By name."""
