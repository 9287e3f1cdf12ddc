"""Test tools/cuda_resources and tools/sass.py, and run them on the installed library.

The excerpts are disassemblies of small kernels by nvcc 13.0 for sm_90, less the instructions before
and after their loops. Neither nvcc nor a GPU is needed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[3] / "tools"
sys.path.insert(0, str(TOOLS))
import sass  # noqa: E402

# for (int i = threadIdx.x; i < n; i += 32) sum += __ldcg(p + i);
ROLLED = """
.L_x_17:
        /*00e0*/                   IMAD.MOV.U32 R4, RZ, RZ, R0 ;
        /*00f0*/                   MOV R5, R11 ;
        /*0100*/                   LDG.E.64.STRONG.GPU R4, desc[UR4][R4.64] ;
        /*0110*/                   VIADD R9, R9, 0x20 ;
        /*0120*/                   IADD3 R0, P1, R0, 0x100, RZ ;
        /*0130*/                   ISETP.GE.AND P0, PT, R9, UR6, PT ;
        /*0140*/                   IADD3.X R11, RZ, R11, RZ, P1, !PT ;
        /*0150*/                   DADD R2, R4, R2 ;
        /*0160*/              @!P0 BRA `(.L_x_17) ;
        /*0190*/                   EXIT ;
"""

# The merge of partial sums in moments_of_rows<double, 1, true>, before its loads were batched.
MERGE = """
.L_x_573:
        /*ab80*/                   IMAD.MOV.U32 R24, RZ, RZ, 0x1 ;
        /*ab90*/                   IMAD.MOV.U32 R25, RZ, RZ, 0x0 ;
        /*aba0*/                   IMAD.MOV.U32 R26, RZ, RZ, R6 ;
        /*abb0*/                   IMAD.WIDE R24, R29, 0x3, R24 ;
        /*abc0*/                   IMAD R14, R25, R4.reuse, RZ ;
        /*abd0*/                   IMAD.MOV.U32 R27, RZ, RZ, R7 ;
        /*abe0*/                   IMAD R25, R24.reuse, R5, R14 ;
        /*abf0*/                   IMAD.WIDE.U32 R26, R24, R4, R26 ;
        /*ac00*/                   IMAD.IADD R25, R27, 0x1, R25 ;
        /*ac10*/                   LEA R24, P2, R26, UR6, 0x3 ;
        /*ac20*/                   LEA.HI.X R25, R26, UR7, R25, 0x3, P2 ;
        /*ac30*/                   LDG.E.64.STRONG.GPU R24, desc[UR8][R24.64] ;
        /*ac40*/                   IMAD.IADD R29, R29, 0x1, R10 ;
        /*ac50*/                   YIELD ;
        /*ac60*/                   ISETP.GE.AND P2, PT, R29, R21, PT ;
        /*ac70*/                   DADD R22, R24, R22 ;
        /*ac80*/              @!P2 BRA `(.L_x_573) ;
        /*ac90*/                   EXIT ;
"""

# for (int i = 0; i < n; i += 2) sum += __ldcg(p + i) * __ldcg(p + i + 1);
BATCHED = """
.L_x_13:
        /*00c0*/                   IMAD.MOV.U32 R10, RZ, RZ, R0 ;
        /*00d0*/                   IMAD.MOV.U32 R11, RZ, RZ, R5 ;
        /*00e0*/                   LDG.E.64.STRONG.GPU R4, desc[UR6][R10.64] ;
        /*00f0*/                   LDG.E.64.STRONG.GPU R6, desc[UR6][R10.64+0x8] ;
        /*0100*/                   UIADD3 UR4, UR4, 0x2, URZ ;
        /*0110*/                   IADD3 R0, P1, R10, 0x10, RZ ;
        /*0120*/                   ISETP.LE.AND P0, PT, R12, UR4, PT ;
        /*0130*/                   DFMA R2, R4, R6, R2 ;
        /*0140*/                   IMAD.X R5, RZ, RZ, R11, P1 ;
        /*0150*/              @!P0 BRA `(.L_x_13) ;
        /*0170*/                   EXIT ;
"""

# Two float4 that are loaded a round before they are used.
RING = """
.L_x_10:
        /*00f0*/                   UIADD3 UR4, UR4, 0x2, URZ ;
        /*0100*/                   FMUL R4, R5, R4 ;
        /*0110*/                   FMUL R8, R9, R8 ;
        /*0120*/                   MOV R12, R14 ;
        /*0130*/                   MOV R13, R19 ;
        /*0140*/                   FFMA R0, R7, R6, R4 ;
        /*0150*/                   ISETP.LE.AND P0, PT, R16, UR4, PT ;
        /*0160*/                   FFMA R17, R11, R10, R8 ;
        /*0170*/                   IADD3 R14, P1, R12, 0x20, RZ ;
        /*0180*/                   FADD R0, R0, R15 ;
        /*0190*/                   LDG.E.128.CONSTANT R4, desc[UR6][R12.64+0x20] ;
        /*01a0*/                   LDG.E.128.CONSTANT R8, desc[UR6][R12.64+0x30] ;
        /*01b0*/                   IADD3.X R19, RZ, R13, RZ, P1, !PT ;
        /*01c0*/                   FADD R15, R0, R17 ;
        /*01d0*/              @!P0 BRA `(.L_x_10) ;
        /*0210*/                   EXIT ;
"""

# v = wide ? __ldcg(p + i) : __ldcg(q + i), for double* p and float* q.
EITHER = """
.L_x_1:
        /*00f0*/                   IMAD.U32 R10, RZ, RZ, UR8 ;
        /*0100*/                   IMAD.U32 R11, RZ, RZ, UR9 ;
        /*0110*/                   IMAD.U32 R8, RZ, RZ, UR10 ;
        /*0120*/                   IMAD.U32 R9, RZ, RZ, UR11 ;
        /*0130*/              @!P0 LDG.E.STRONG.GPU R10, desc[UR6][R10.64] ;
        /*0140*/               @P0 LDG.E.64.STRONG.GPU R4, desc[UR6][R8.64] ;
        /*0150*/                   UIADD3 UR4, UR4, 0x1, URZ ;
        /*0160*/                   UIADD3 UR10, UP0, UR10, 0x8, URZ ;
        /*0170*/                   UIADD3 UR8, UP1, UR8, 0x4, URZ ;
        /*0180*/                   ISETP.LE.AND P1, PT, R0, UR4, PT ;
        /*0190*/                   UIADD3.X UR11, URZ, UR11, URZ, UP0, !UPT ;
        /*01a0*/                   UIADD3.X UR9, URZ, UR9, URZ, UP1, !UPT ;
        /*01b0*/              @!P0 F2F.F64.F32 R4, R10 ;
        /*01c0*/                   DFMA R2, R2, R2, R4 ;
        /*01d0*/              @!P1 BRA `(.L_x_1) ;
        /*01f0*/                   EXIT ;
"""

# while (*flag == 0) {}
SPIN = """
.L_x_7:
        /*0030*/                   LDG.E.STRONG.SYS R0, desc[UR4][R2.64] ;
        /*0040*/                   ISETP.NE.AND P0, PT, R0, RZ, PT ;
        /*0050*/              @!P0 BRA `(.L_x_7) ;
        /*0090*/                   EXIT ;
"""

# __pipeline_memcpy_async of 16 bytes, then __pipeline_wait_prior(1).
COPIES = """
.L_x_2:
        /*0160*/                   USHF.L.U32 UR5, UR7, 0x9, URZ ;
        /*0170*/                   IMAD.WIDE R4, R11, 0x10, R2 ;
        /*0180*/                   ULOP3.LUT UR5, UR5, 0x200, URZ, 0xc0, !UPT ;
        /*0190*/                   VIADD R11, R11, 0x20 ;
        /*01a0*/                   UIADD3 UR5, UR4, UR5, URZ ;
        /*01b0*/                   LEA R13, R15, UR5, 0x4 ;
        /*01d0*/                   UIADD3 UR7, UR7, 0x1, URZ ;
        /*0210*/                   LDGSTS.E.BYPASS.128 [R13], desc[UR8][R4.64] ;
        /*0230*/                   LDGDEPBAR ;
        /*0250*/                   ISETP.LE.AND P0, PT, R8, UR7, PT ;
        /*0290*/                   DEPBAR.LE SB0, 0x1 ;
        /*02a0*/                   LDS R0, [R0] ;
        /*02b0*/                   FADD R9, R0, R9 ;
        /*02c0*/              @!P0 BRA `(.L_x_2) ;
        /*02e0*/                   EXIT ;
"""

# out[i] = p[i] / n in int64_t, less most of the fast division.
DIVIDE = """
.L_x_5:
        /*0090*/                   LDG.E.64.CONSTANT R4, desc[UR4][R4.64] ;
        /*00a0*/                   IADD3 R0, R0, 0x1, RZ ;
        /*00b0*/                   ISETP.NE.AND P2, PT, R0, 0x64, PT ;
        /*00c0*/                   LOP3.LUT R2, R5, UR10, RZ, 0xfc, !PT ;
        /*00d0*/                   ISETP.NE.U32.AND P0, PT, R2, RZ, PT ;
        /*00e0*/              @!P0 BRA `(.L_x_3) ;
        /*00f0*/                   MOV R8, 0x110 ;
        /*0100*/                   CALL.REL.NOINC `($__internal_0_$__cuda_sm20_div_s64) ;
        /*0110*/                   IMAD.MOV.U32 R2, RZ, RZ, R4 ;
        /*0120*/                   IMAD.MOV.U32 R3, RZ, RZ, R5 ;
        /*0130*/                   BRA `(.L_x_4) ;
.L_x_3:
        /*0140*/                   I2F.U32.RP R5, R9 ;
        /*0160*/                   MUFU.RCP R5, R5 ;
        /*0260*/              @!P3 LOP3.LUT R2, RZ, R9, RZ, 0x33, !PT ;
.L_x_4:
        /*02b0*/                   STG.E.64 desc[UR4][R4.64], R2 ;
        /*02e0*/               @P2 BRA `(.L_x_5) ;
        /*02f0*/                   EXIT ;
$__internal_0_$__cuda_sm20_div_s64:
        /*0300*/                   LDC.64 R2, c[0x0][0x220] ;
        /*0840*/                   RET.REL.NODEC R2 `(divide) ;
.L_x_6:
        /*0850*/                   BRA `(.L_x_6);
"""

# From moments_of_rows<double, 2, false>: a whole piece of 16 bytes, or its values one by one.
PARTS = """
.L_x_871:
        /*39a0*/                   LEA R32, P3, R29, R20, 0x3 ;
        /*39f0*/                   ISETP.GT.AND.EX P0, PT, R17, RZ, PT, P0 ;
        /*3a70*/               @P1 BRA `(.L_x_860) ;
        /*3bb0*/                   LDG.E.128 R16, desc[UR6][R32.64] ;
        /*3bc0*/                   DADD R16, -R36, R16 ;
        /*3bd0*/                   DADD R18, -R24, R18 ;
        /*3c00*/                   BRA `(.L_x_861) ;
.L_x_860:
        /*3c10*/                   LDG.E.64 R16, desc[UR6][R32.64] ;
        /*3c20*/                   LDG.E.64 R18, desc[UR6][R32.64+0x8] ;
        /*3c30*/                   DADD R16, -R36, R16 ;
        /*3c40*/                   DADD R18, -R24, R18 ;
.L_x_861:
        /*44a0*/               @P0 BRA `(.L_x_871) ;
        /*44b0*/                   EXIT ;
"""


def loops_of(text: str) -> list[sass.Loop]:
    return list(sass.all_loops(sass.find_loops(sass.control_flow(sass.read_instructions(text)))))


def loop_of(text: str) -> sass.Loop:
    (loop,) = loops_of(text)
    return loop


@pytest.mark.parametrize(
    ("text", "most"),
    [
        (ROLLED, 1),
        (MERGE, 1),
        (BATCHED, 2),
        (RING, 2),
        (EITHER, 1),
        (SPIN, 1),
        (COPIES, 2),
    ],
)
def test_loads_in_flight_are_counted_round_the_loop(text, most):
    assert sass.most_in_flight(loop_of(text)) == most


def test_a_use_of_any_register_of_a_load_waits_for_it():
    last_of_the_first = RING.replace("FFMA R17, R11, R10, R8", "FFMA R17, R11, R10, R7")
    assert sass.most_in_flight(loop_of(last_of_the_first)) == 2
    between = RING.replace("+0x20] ;", "+0x20] ;\n        /*0198*/  FADD R0, R7, R0 ;")
    assert sass.most_in_flight(loop_of(between)) == 1


def test_a_wait_for_all_copies_leaves_none_in_flight():
    assert sass.most_in_flight(loop_of(COPIES.replace("SB0, 0x1", "SB0, 0x0"))) == 1


def test_the_main_path_passes_over_partial_pieces():
    loop = loop_of(PARTS)
    assert sass.most_in_flight(loop) == 2
    path = sass.main_path(loop)
    assert [one.opcode for one in path if one.is_load] == ["LDG.E.128"]
    assert sass.most_in_flight_on(path) == 1
    assert len(path) == 8


def test_a_spin_loop_loads_from_one_address():
    assert sass.is_spin(loop_of(SPIN))
    assert not sass.is_spin(loop_of(ROLLED))
    assert not sass.is_spin(loop_of(SPIN.replace("STRONG.SYS", "CONSTANT")))


def test_a_called_routine_is_no_part_of_the_loop():
    loop = loop_of(DIVIDE)
    assert [one.called for one in loop.instructions if one.called] == [
        "$__internal_0_$__cuda_sm20_div_s64"
    ]
    assert loop.instructions[-1].address == 0x2E0


def test_loops_nest():
    inner = ROLLED.partition("        /*0190*/")[0]
    outer = f".L_x_1:\n        /*0010*/  MOV R0, R1 ;{inner}        /*0170*/  @P5 BRA `(.L_x_1) ;\n"
    outside, inside = loops_of(f"{outer}        /*0190*/  EXIT ;\n")
    assert outside.inner == [inside]
    assert [one.address for one in outside.own_instructions] == [0x10, 0x170]


def test_the_registers_of_an_instruction():
    text = """
        /*0000*/                   LDG.E.128 R4, desc[UR6][R12.64+0x20] ;
        /*0010*/                   DADD R2, -R4.reuse, R10 ;
        /*0020*/                   STG.E.64 desc[UR4][R6.64], R2 ;
        /*0030*/              @!P0 F2F.F64.F32 R4, R10 ;
        /*0040*/                   SHFL.DOWN PT, R5, R4, 0x10, 0x1f ;
        /*0050*/                   ISETP.GE.AND P0, PT, R9, UR6, PT ;
    """
    found = [(set(one.written), set(one.read)) for one in sass.read_instructions(text)]
    assert found == [
        ({4, 5, 6, 7}, {12, 13}),
        ({2, 3}, {4, 5, 10, 11}),
        (set(), {6, 7, 2, 3}),
        ({4, 5}, {10}),
        ({5}, {4}),
        (set(), {9}),
    ]


# ------------------------------------------------------------------------------- the whole tool

# Programs that print what those of a toolkit would, for kernels twice<float> and twice<double>, or
# for two of another name.
CUOBJDUMP = """#!{python}
import pathlib, sys
if "--extract-elf" in sys.argv:
    for arch in {archs}:
        pathlib.Path(f"k.1.sm_{{arch}}.cubin").touch()
else:
    print(" Function _Z5twiceIfEvPT_i:")
    print("  REG:32 STACK:0 SHARED:1032 LOCAL:0 CONSTANT[0]:548 TEXTURE:0 SURFACE:0 SAMPLER:0")
    print(" Function _Z5twiceIdEvPT_i:")
    print("  REG:40 STACK:{stack} SHARED:1032 LOCAL:0 CONSTANT[0]:548 TEXTURE:0 SURFACE:0")
"""
NVDISASM = """#!{python}
print(".text._Z5twiceIfEvPT_i:", {first!r}, ".text._Z5twiceIdEvPT_i:", {second!r}, sep="\\n")
"""


def script(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def report(
    folder: Path,
    *options: str,
    first: str = RING,
    second: str = RING,
    stack: int = 0,
    archs: tuple[str, ...] = ("90",),
    kernel: str = "twice",
) -> subprocess.CompletedProcess[str]:
    python = sys.executable
    programs = {
        "cuobjdump": CUOBJDUMP.format(python=python, archs=archs, stack=stack),
        "nvdisasm": NVDISASM.format(python=python, first=first, second=second),
    }
    for name, text in programs.items():
        script(folder / name, text.replace("5twice", f"{len(kernel)}{kernel}"))
    return run(folder / "library.so", *options, PATH=f"{folder}:{os.environ['PATH']}")


def run(library: Path | str, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, TOOLS / "cuda_resources", *options, library],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_each_kernel_has_its_row(tmp_path):
    done = report(tmp_path, "--each", second=BATCHED)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "| `twice<double>` | 1 | 40 | 0 | 0 | 1032 | 0 | 0 | 2 | - |" in lines
    assert "| `twice<float>` | 1 | 32 | 0 | 0 | 1032 | 2 | 0 | 2 | 8 |" in lines
    assert lines[-1] == "2 kernels for sm_90, 0 of them with faults"


def test_the_instances_of_a_kernel_share_a_row(tmp_path):
    done = report(tmp_path, second=BATCHED)
    row = "| `twice` | 2 | 32-40 | 0 | 0 | 1032 | 0-2 | 0 | 2 | 8 |"
    assert row in done.stdout.splitlines()


def test_the_architecture_is_90_or_the_newest(tmp_path):
    assert "for sm_90," in report(tmp_path, archs=("80", "90", "120")).stdout
    assert "for sm_80," in report(tmp_path, "--arch", "80", archs=("80", "90")).stdout
    (tmp_path / "other").mkdir()
    assert "for sm_100," in report(tmp_path / "other", archs=("80", "100")).stdout


def test_a_library_without_cuda_is_refused(tmp_path):
    done = report(tmp_path, archs=())
    assert done.returncode == 1
    assert "has no CUDA code" in done.stderr
    assert "-DSYNCNORM_CUDA=ON" in done.stderr


LONG = "\n".join(f"        /*{i:04x}*/  FADD R0, R0, R1 ;" for i in range(0xF000, 0xF0E0))
FLOAT64_DIVISION = (
    "        /*0158*/  CALL.REL.NOINC `($__internal_1_$__cuda_sm20_div_rn_f64_full) ;"
)


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (
            ROLLED,
            "waits for each global load before it issues the next (twice<double>, loop at",
        ),
        (DIVIDE, "divides 64-bit integers (twice<double>, loop at 0x90: call at 0x100)"),
        (
            RING.replace("        /*01b0*/", f"{LONG}\n        /*01b0*/"),
            "time for (twice<double>, loop at 0xf0: 239 instructions, 2 accesses)",
        ),
        (
            RING.replace("        /*01b0*/", "        /*01a8*/  STL [R1], R0 ;\n        /*01b0*/"),
            "uses local memory (twice<double>, 0 bytes, 1 accesses)",
        ),
    ],
)
def test_a_fault_fails_and_is_described(tmp_path, second, expected):
    done = report(tmp_path, second=second)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].endswith("1 of them with faults")
    assert any(line.startswith("twice, 1 of 2 instances: ") for line in done.stderr.splitlines())
    assert expected in done.stderr


def test_an_exemption_holds_for_its_rule_and_only_while_it_is_needed(tmp_path):
    exempt = "finish_backward_kernel"
    assert report(tmp_path, second=MERGE, kernel=exempt).returncode == 0
    done = report(tmp_path, kernel=exempt)
    assert done.returncode == 1
    assert done.stderr == (
        "EXEMPT has 'finish_backward_kernel' for 'in flight', but no kernel needs it. Remove it.\n"
    )
    assert report(tmp_path, second=DIVIDE, kernel=exempt).returncode == 1


def test_a_stack_frame_fails(tmp_path):
    done = report(tmp_path, stack=16)
    assert done.returncode == 1
    assert "uses local memory (twice<double>, 16 bytes, 0 accesses)" in done.stderr


def test_float64_divides_only_where_the_values_are_float64(tmp_path):
    divides = RING.replace("        /*01b0*/", f"{FLOAT64_DIVISION}\n        /*01b0*/")
    assert report(tmp_path, second=divides).returncode == 0
    done = report(tmp_path, first=divides)
    assert done.returncode == 1
    assert "divides in float64 (twice<float>, loop at 0xf0: call at 0x158)" in done.stderr


def test_the_listing_shows_the_loop(tmp_path):
    done = report(tmp_path, "--listing", second=ROLLED)
    assert "        0x00100  LDG.E.64.STRONG.GPU R4, desc[UR4][R4.64]" in done.stderr.splitlines()


def test_the_installed_kernels_have_no_faults():
    syncnorm = pytest.importorskip("syncnorm")
    found = syncnorm.capabilities()
    if not found["cuda_built"]:
        pytest.skip("the installed syncnorm has no CUDA backend: no nvcc, or SYNCNORM_CUDA=OFF")
    done = run(found["library"])
    assert done.returncode == 0, done.stdout + done.stderr
