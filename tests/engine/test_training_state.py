from gatedvision.engine.training_state import restore_histories, to_plain


def test_histories_survive_the_way_through_a_checkpoint(build_run, tmp_path):
    run = build_run(tmp_path, options={"train_cfg.max_epochs": 1})
    run.train()
    restored = restore_histories(to_plain(run.message_hub.state_dict()))["log_scalars"]
    assert restored.keys() >= {"train/loss", "train/lr", "val/accuracy/top1"}
    for name, history in restored.items():
        original = run.message_hub.get_scalar(name)
        assert history.data[0].tolist() == original.data[0].tolist()
        assert history.mean(3) == original.mean(3)
