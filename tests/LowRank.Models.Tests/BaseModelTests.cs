using System.Text.Json;
using LowRank.Models.Data;
using LowRank.Testing;
using LowRank.Training;
using Xunit;

namespace LowRank.Models.Tests;

/// <summary>The shipped model is the one its card speaks of, and as good as the card says.</summary>
public sealed class BaseModelTests
{
    private static readonly ModelCard Card = new(BaseModel.ShippedFolder);

    [Fact]
    public void It_is_found_by_its_name_unless_a_folder_has_that_name()
    {
        Assert.Equal(BaseModel.ShippedFolder, BaseModel.Folder(BaseModel.Name));
        Assert.Equal(AppContext.BaseDirectory, BaseModel.Folder(AppContext.BaseDirectory));
        Assert.Contains("no-such-model", Assert.Throws<DirectoryNotFoundException>(() => BaseModel.Folder("no-such-model")).Message, StringComparison.Ordinal);
        using Device device = Device.Cpu();
        using var model = VisionTransformer.LoadBase(device);
        Assert.Equal(FashionMnist.ClassNames, model.Config.ClassNames);
        Card.CheckWeights(model);
    }

    /// <summary>The first 200 test images lie beside this test (Zalando Research, MIT licence).</summary>
    [Fact]
    public void A_sample_gives_the_figure_of_the_card() => Assert.Equal(
        Card.Number(@"(\d+) of the first 200"),
        Correct(IdxFile.ToImages(IdxFile.Read(Resource("images-idx3")), IdxFile.Read(Resource("labels-idx1")), FashionMnist.ClassNames)));

    [Fact]
    public void The_test_images_give_the_accuracy_of_the_card()
    {
        Assert.SkipUnless(Directory.Exists(FashionMnist.DebianFolder), $"no {FashionMnist.DebianFolder}: install Debian's dataset-fashion-mnist");
        ImageSet test = FashionMnist.Read(FashionMnist.DebianFolder, train: false);
        double want = Card.Number(@"Accuracy: ([\d.]+) %") / 100;
        Assert.True(want >= 0.88);
        Assert.Equal(want, (double)Correct(test) / test.Count, Close.Accuracy);
    }

    private static int Correct(ImageSet images)
    {
        using JsonDocument settings = JsonDocument.Parse(File.ReadAllBytes(Path.Combine(BaseModel.ShippedFolder, "lowrank.json")));
        float Of(string key) => settings.RootElement.GetProperty(key)[0].GetSingle();
        ImageSet input = images.Normalize([Of("mean")], [Of("deviation")]);
        using Device device = Device.Cpu();
        using var model = VisionTransformer.LoadBase(device);
        int correct = 0;
        for (int start = 0; start < input.Count; start += 200)
        {
            using Scope scope = device.BeginScope();
            ImageSet part = input.Select([.. Enumerable.Range(start, Math.Min(200, input.Count - start))]);
            correct += Losses.Correct(model.Forward(scope.Of([part.Count, 1, part.Height, part.Width], part.Pixels)), part.Labels);
        }
        return correct;
    }

    private static string Resource(string part) => Path.Combine(AppContext.BaseDirectory, "Resources", $"fashion-200-{part}-ubyte.gz");
}
