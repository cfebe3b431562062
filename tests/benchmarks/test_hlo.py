"""Lines as XLA prints them for TPUs and CPUs."""

from benchmarks import hlo

_TILED = "{1,0:T(8,128)(2,1)S(1)}"


def test_collectives_adds_up_what_one_exchange_carries():
    line = (
        f"  %all-reduce.1 = (bf16[3,3,32,64]{_TILED}, /*index=1*/f32[64]{{0:T(128)}}) "
        'all-reduce(%a, %b), channel_id=1, metadata={op_name="jit(train_step)/add"}'
    )
    expected = hlo.Collective("all-reduce", ("bf16", "f32"), 2 * 3 * 3 * 32 * 64 + 4 * 64)
    assert hlo.collectives(line) == [expected]


def test_collectives_counts_an_asynchronous_one_once_and_by_its_result():
    text = f"""
  %s = (f32[8,4]{_TILED}, f32[32,4]{_TILED}) all-gather-start(%x), channel_id=2
  ROOT %d = f32[32,4]{_TILED} all-gather-done(%s)
  %r = f32[16]{{0}} all-reduce-start(%y), channel_id=3
"""
    gather = hlo.Collective("all-gather", ("f32",), 4 * 32 * 4)
    assert hlo.collectives(text) == [gather, hlo.Collective("all-reduce", ("f32",), 64)]


def test_products_names_what_they_were_made_from():
    text = """
  %c.1 = bf16[32,8,8,64]{3,0,2,1:T(8,128)(2,1)} convolution(%a, %b), window={size=3x3}, \
dim_labels=b01f_01io->b01f, metadata={op_name="jit(f)/conv" stack_frame_id=7}
  %d = f32[4,10]{1,0} dot(%x, %y), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %f = f32[4,10]{1,0} fusion(%x), kind=kLoop, calls=%dot_computation
"""
    convolution = hlo.Array("bf16", 2 * 32 * 8 * 8 * 64, "jit(f)/conv")
    assert hlo.products(text) == [convolution, hlo.Array("f32", 160)]


def test_constants_are_as_large_as_they_are_where_their_values_are_left_out():
    text = """
  %constant.1 = f32[1000]{0} constant({...})
  %p = pred[] constant(true)
  %broadcast = f32[1000]{0} broadcast(%constant.1), dimensions={0}
"""
    assert hlo.constants(text) == [hlo.Array("f32", 4000), hlo.Array("pred", 1)]
